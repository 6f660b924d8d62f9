"""A stand-in for the hub of models, on loopback: what huggingface_hub asks, and no more."""

import base64
import hashlib
import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

TOKEN = "word-of-nobody"


class Hub(ThreadingHTTPServer):
    """Keeps repositories by name, and the files of each of their revisions."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repos: dict[str, dict[str, dict[str, bytes]]] = {}
        self.asked: list[str] = []

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def commit(self, repo: str, changed: dict[str, bytes]) -> str:
        revisions = self.repos.setdefault(repo, {})
        files = revisions.get("main", {}) | changed
        sha = hashlib.sha1(repr(sorted(files.items())).encode()).hexdigest()
        revisions[sha] = revisions["main"] = files
        return sha


class _Handler(BaseHTTPRequestHandler):
    server: Hub

    def log_message(self, *_):
        """Says nothing."""

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.server.asked.append(f"POST {self.path}")
        if self.path == "/api/validate-yaml":
            return self._json({"errors": [], "warnings": []})
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self._json({"error": "Invalid username or password."}, 401)
        if self.path == "/api/repos/create":
            given = json.loads(body)
            repo = f"{given.get('organization')}/{given['name']}"
            self.server.repos.setdefault(repo, {"main": {}})
            return self._json({"url": f"{self.server.address}/{repo}", "name": repo, "id": repo})
        repo = "/".join(self.path.split("/")[3:5])
        if "/preupload/" in self.path:
            given = json.loads(body)["files"]
            kinds = [
                {"uploadMode": "regular", "shouldIgnore": False, "path": f["path"]} for f in given
            ]
            return self._json({"files": kinds})
        assert "/commit/" in self.path
        lines = [json.loads(line) for line in body.splitlines()]
        files = [line["value"] for line in lines if line["key"] == "file"]
        sha = self.server.commit(repo, {f["path"]: base64.b64decode(f["content"]) for f in files})
        url = f"{self.server.address}/{repo}/commit/{sha}"
        return self._json({"success": True, "commitOid": sha, "commitUrl": url})

    def do_GET(self):
        self._answer(with_body=True)

    def do_HEAD(self):
        self._answer(with_body=False)

    def _answer(self, *, with_body):
        self.server.asked.append(f"{self.command} {self.path}")
        path = self.path.partition("?")[0].strip("/").split("/")
        api = path[0] == "api"
        repo = "/".join(path[2:4] if api else path[:2])
        revision = (path[5] if len(path) > 5 else "main") if api else path[3]
        files = self.server.repos.get(repo, {}).get(revision)
        if files is None:
            problem = {"error": "Repository Not Found"}
            return self._json(problem, 404, {"X-Error-Code": "RepoNotFound"})
        commits = self.server.repos[repo].items()
        sha = next((name for name, has in commits if has == files and name != "main"), "0" * 40)
        if api and path[4:5] == ["tree"]:
            kind = {"type": "file", "oid": "0" * 40}
            return self._json(
                [kind | {"path": name, "size": len(has)} for name, has in files.items()]
            )
        if api:
            counts = {"private": False, "tags": [], "downloads": 0, "likes": 0}
            named = [{"rfilename": name} for name in files]
            return self._json(counts | {"_id": "1", "id": repo, "sha": sha, "siblings": named})
        content = files["/".join(path[4:])]
        tag = hashlib.sha256(content).hexdigest()
        self.send_response(200)
        self.send_header("ETag", f'"{tag}"')
        self.send_header("X-Repo-Commit", sha)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if with_body:
            self.wfile.write(content)
        return None

    def _json(self, content, status=200, headers=None):
        text = json.dumps(content).encode()
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(text)
