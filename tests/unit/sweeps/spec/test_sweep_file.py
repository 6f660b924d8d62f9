from pathlib import Path

import pytest

from gridclip.io.errors import InputError
from gridclip.sweeps.spec.distributions import Choice, Integers, Numbers
from gridclip.sweeps.spec.sweep_file import Hyperband, Metric, read_sweep

MINIMAL = """
method: random
program: train.py
parameters:
  lr: {min: 0.1, max: 0.2}
"""


def read(tmp_path: Path, text: str):
    file = tmp_path / "sweep.yaml"
    file.write_text(text)
    return read_sweep(file)


def distributions(tmp_path: Path, parameters: str, method: str = "random"):
    spec = read(tmp_path, f"method: {method}\nprogram: p\nparameters: {{{parameters}}}\n")
    return {parameter.name: parameter.distribution for parameter in spec.parameters}


def test_a_whole_file_is_read(tmp_path):
    spec = read(
        tmp_path,
        """
name: n
description: what it asks
project: p
entity: e
program: train.py
command: [python, "${program}", 3, "${args}"]
method: grid
run_cap: 7
metric: {name: val/APr, goal: maximize, target: 0.5}
parameters: {b: {values: [1, 2]}, a: {value: 3}}
""",
    )
    assert (spec.name, spec.project, spec.entity, spec.run_cap) == ("n", "p", "e", 7)
    assert spec.command == ("python", "${program}", "3", "${args}")
    assert spec.metric == Metric(name="val/APr", goal="maximize", target=0.5)
    assert [parameter.name for parameter in spec.parameters] == ["a", "b"]


def test_what_the_file_leaves_out_is_as_with_wandb(tmp_path):
    spec = read(tmp_path, MINIMAL + "metric: {name: loss}\n")
    assert spec.name == "sweep"
    assert spec.command == ("${env}", "${interpreter}", "${program}", "${args}")
    assert read(tmp_path, MINIMAL + "command: []\n").command == spec.command
    assert spec.metric == Metric(name="loss", goal="minimize")


def test_the_distribution_follows_from_the_keys_as_with_wandb(tmp_path):
    found = distributions(
        tmp_path,
        "a: {value: 3}, b: {values: [x, 1]}, c: {min: 1, max: 4}, d: {min: 1.0, max: 4.0},"
        "e: {values: [x, y], probabilities: [0.25, 0.75]}, f: {distribution: q_normal, q: 2}",
    )
    assert found == {
        "a": Choice(values=(3,)),
        "b": Choice(values=("x", 1)),
        "c": Integers(min=1, max=4),
        "d": Numbers(name="uniform", settings={"min": 1.0, "max": 4.0}),
        "e": Choice(values=("x", "y"), probabilities=(0.25, 0.75)),
        "f": Numbers(name="normal", settings={"mu": 0.0, "sigma": 1.0}, q=2),
    }


def test_nested_parameters_have_dotted_names_and_are_sorted_level_by_level(tmp_path):
    spec = read(
        tmp_path,
        """
method: grid
program: p
parameters:
  z: {value: 1}
  m:
    parameters:
      b: {value: 2}
      a: {parameters: {c: {value: 3}}}
""",
    )
    assert [parameter.path for parameter in spec.parameters] == [
        ("m", "a", "c"),
        ("m", "b"),
        ("z",),
    ]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("metod: grid\n" + MINIMAL, r"metod \(line 1\): unknown key 'metod'\n.*mean method\?"),
        (MINIMAL.replace("random", "rondom"), r"method \(line 2\): 'rondom' is not one of grid"),
        ("program: p\nmethod: grid\n", "'parameters' is missing"),
        (MINIMAL.replace("max: 0.2", "mx: 0.2"), r"parameters.lr \(line 5\): has no values"),
        (MINIMAL.replace("max: 0.2", "max: 0.2, q: 1"), r"parameters.lr.q \(line 5\): unknown key"),
        (MINIMAL.replace("0.2", "0.05"), r"parameters.lr \(line 5\): min 0.1 is not less than"),
        (MINIMAL.replace("0.1", "1e-4"), r"lr.min \(line 5\): '1e-4' is not a number\n.*1.0e-4"),
        (MINIMAL.replace("{min: 0.1, max: 0.2}", "0.1"), r"lr \(line 5\): is a bare value"),
        (MINIMAL.replace("lr:", "l/r:"), r"parameters.l/r \(line 5\): 'l/r' is no name W&B takes"),
        (
            MINIMAL.replace("random", "grid"),
            r"lr \(line 5\): no grid can be made of it \(uniform\)",
        ),
        (MINIMAL + "  lr: {value: 1}\n", "parameters.lr: 'lr' stands twice, on lines 5 and 6"),
        (MINIMAL + "metric: {nam: x}\n", r"metric.nam \(line 6\): unknown key"),
        (MINIMAL + "metric: {name: x, goal: max}\n", r"metric.goal \(line 6\): 'max' is not one"),
        (MINIMAL + "metric: loss\n", r"metric \(line 6\): 'loss' is not a mapping"),
        (MINIMAL + "run_cap: 0\n", r"run_cap \(line 6\): 0 is not a whole number of at least 1"),
        (MINIMAL + "run_cap: true\n", r"run_cap \(line 6\): True is not a number"),
        (MINIMAL + "command: [python, '${arg}']\n", r"command \(line 6\): '\${arg}' is no macro"),
        (MINIMAL + "command: python\n", r"command \(line 6\): 'python' is not a list"),
        (MINIMAL.replace("program: train.py\n", ""), "program: is missing, and the command runs"),
        (MINIMAL + "command: ['${envvar:home}']\n", r"command \(line 6\): '\${envvar:home}' is no"),
        (MINIMAL + "command: ['a ${envvar:A-B} b']\n", r"command \(line 6\): .* is no macro"),
        (MINIMAL + "early_terminate: {type: hyperband, min_iter: 1}\n", "metric: is missing, and"),
        (MINIMAL.replace("random", "bayes"), "metric: is missing, and method: bayes goes by it"),
        (MINIMAL + "kind: run\n", r"kind \(line 6\): 'run' is not one of sweep"),
        (MINIMAL + "apiVersion: 2\n", r"apiVersion \(line 6\): 2 is not text"),
        (MINIMAL + "controller: {type: me}\n", r"controller.type \(line 6\): 'me' is not one of"),
        (MINIMAL + "controller: {}\n", r"controller.type: None is not one of local, cloud"),
        (MINIMAL + "metric: {name: x, impute: mean}\n", r"metric.impute \(line 6\): 'mean' is not"),
        (MINIMAL + "metric: {name: x, impute_while_running: false}\n", "False is not one of worst"),
        (MINIMAL + "metric: {name: x, target: .nan}\n", "nan is not a number"),
        (MINIMAL + "  true: {value: 1}\n", "the key is not text"),
        ("method: [\n", "is not YAML"),
        ("just text\n", "holds no mapping"),
        ("", "holds no mapping"),
    ],
)
def test_a_fault_is_refused_by_name_and_line(tmp_path, text, said):
    with pytest.raises(InputError, match=said) as error:
        read(tmp_path, text)
    assert str(error.value).startswith(str(tmp_path / "sweep.yaml"))


@pytest.mark.parametrize(
    ("distribution", "said"),
    [
        ("values: []", "at least one entry"),
        ("values: [1, 2], probabilities: [0.5]", "2 values, 1 probabilities"),
        ("values: [1, 2], probabilities: [0.5, 0.6]", "no shares of 1"),
        ("values: [1, 2], probabilities: [1.5, -0.5]", "no shares of 1"),
        ("values: [1, 2], probabilities: [a, b]", "not a list of numbers"),
        ("values: [1, 2], probabilities: [true, false]", "not a list of numbers"),
        ("min: 1, max: 2.0", "whole number and one that is not, which `wandb sweep` refuses"),
        ("min: .inf, max: 2.0", "inf is not a number"),
        ("distribution: log_uniform, min: 0, max: 1000", "beyond all numbers"),
        ("distribution: uniform, min: -1.7e+308, max: 1.7e+308", "beyond all numbers"),
        ("value: 1, min: 2", "unknown key 'min'"),
        ("distribution: log_uniform_values, min: 0, max: 1", "min must be above 0"),
        ("distribution: normal, sigma: 0", "sigma must be above 0"),
        ("distribution: beta, a: -1", "a must be above 0"),
        ("distribution: q_uniform, min: 0, max: 1, q: 0", "q must be above 0"),
        ("distribution: q_uniform, min: 0", "'max' is missing"),
        ("distribution: uniform, min: true, max: 2", "True is not a number"),
        ("distribution: int_uniform, min: 0.5, max: 2", "0.5 is not a whole number"),
        ("distribution: gaussian", "'gaussian' is not one of constant, categorical"),
        ("parameters: {}", "nothing is swept"),
        ("parameters: {a: {value: 1}}, value: 3", "unknown key 'value'"),
    ],
)
def test_a_bad_distribution_is_refused_with_the_parameters_name(tmp_path, distribution, said):
    with pytest.raises(InputError, match=rf"parameters\.x[^:]*: .*{said}"):
        distributions(tmp_path, f"x: {{{distribution}}}")


def test_a_dotted_and_a_nested_parameter_of_one_name_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"'a\.b' is named twice"):
        distributions(tmp_path, "a.b: {value: 1}, a: {parameters: {b: {value: 2}}}")


def test_a_file_that_is_not_there_is_named():
    with pytest.raises(InputError, match=r"no/such.yaml: can't be read: No such file"):
        read_sweep(Path("no/such.yaml"))


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        ("type: hyperband", "'max_iter' is missing"),
        ("min_iter: 1", "'type' is missing"),
        ("type: median, min_iter: 1", "'median' is not one of hyperband"),
        ("type: hyperband, max_iter: 9", "'s' is missing"),
        ("type: hyperband, min_iter: 1, max_iter: 9", "'s' is missing"),
        ("type: hyperband, s: 2", "'max_iter' is missing"),
        ("type: hyperband, max_iter: 9, s: 0", "0 is not a whole number of at least 1"),
        ("type: hyperband, max_iter: 9, s: 1.5", "1.5 is not a whole number"),
        ("type: hyperband, max_iter: 2, s: 2", "2 is less than eta, 3"),
        ("type: hyperband, min_iter: 1, eta: 1", "1 is not above 1"),
        ("type: hyperband, min_iter: 1, strict: 1", "1 is not true or false"),
        ("type: hyperband, min_iter: 1, stric: true", "did you mean strict"),
    ],
)
def test_a_bad_hyperband_is_refused(tmp_path, rule, said):
    with pytest.raises(InputError, match=rf"early_terminate[^:]*: (.|\n)*{said}"):
        read(tmp_path, MINIMAL + f"metric: {{name: m}}\nearly_terminate: {{{rule}}}\n")


def test_hyperband_is_read_with_wandbs_defaults(tmp_path):
    head = MINIMAL + "metric: {name: m}\n"
    rule = "early_terminate: {type: hyperband, max_iter: 27, s: 2, eta: 2, strict: false}\n"
    expected = Hyperband(max_iter=27, brackets=2, eta=2, strict=False)
    assert read(tmp_path, head + rule).early_terminate == expected
    least = read(tmp_path, head + "early_terminate: {type: hyperband, min_iter: 3}\n")
    assert least.early_terminate == Hyperband(min_iter=3, eta=3, strict=True)
    assert least.early_terminate == Hyperband(min_iter=3)


def test_a_bayes_search_needs_something_to_choose(tmp_path):
    with pytest.raises(InputError, match="nothing to choose"):
        read(
            tmp_path,
            "method: bayes\nprogram: p\nmetric: {name: m}\n"
            "parameters: {a: {value: 1}, b: {values: [x]}}\n",
        )


def test_keys_without_effect_here_are_listed_with_their_lines(tmp_path):
    text = "kind: sweep\n" + MINIMAL + "metric: {name: x, impute: best}\n"
    assert read(tmp_path, text).ignored == ("kind (line 1)", "metric.impute (line 7)")
    both = "early_terminate: {type: hyperband, min_iter: 1, max_iter: 9, s: 2}\n"
    ignored = read(tmp_path, text.replace("random", "bayes") + both).ignored
    assert ignored == ("kind (line 1)", "early_terminate.min_iter (line 8)")


def test_what_a_bayes_search_takes_for_a_missing_value_is_read(tmp_path):
    metric = read(
        tmp_path, MINIMAL + "metric: {name: x, impute: best, impute_while_running: latest}\n"
    ).metric
    assert metric == Metric(name="x", impute="best", impute_while_running="latest")


def test_what_only_wandb_carries_out_is_read_and_listed(tmp_path):
    text = MINIMAL.replace("random", "custom") + "scheduler: {engine: optuna}\n"
    assert read(tmp_path, text).online == ("method: custom (line 2)", "scheduler (line 6)")


def test_distributions_of_exponents_are_warned_of(tmp_path):
    spec = read(
        tmp_path,
        MINIMAL + "  w: {distribution: log_uniform, min: 0.001, max: 0.1}\n"
        "  m: {parameters: {v: {distribution: q_log_uniform, min: 0, max: 1}}}\n",
    )
    first, second = spec.warnings
    assert first.startswith("m.v: min and max of log_uniform are exponents of e")
    assert "w: min and max" in second
    assert "it gives 1.001 to 1.105" in second


@pytest.mark.field
@pytest.mark.parametrize(
    "word",
    [
        "x=${args}",
        "python train.py ${args}",
        "--cfg=${args_json_file}",
        "${program}.py",
        "${args}${args}",
        "--a=${envvar:HOME}/${program}",
        "${ args } ",
        "${arg}",
        "${envvar:lower}",
    ],
)
def test_a_macro_that_no_trial_would_get_expanded_is_refused(tmp_path, word):
    text = MINIMAL + f"command: [python, '{word}', '${{args}}']\n"
    with pytest.raises(InputError, match=r"command \(line \d+\): .*\n.*a word of its own"):
        read(tmp_path, text)


@pytest.mark.parametrize(
    "word", ["${args}", "--a=${envvar:HOME}/x", "echo ${HOME} $args", "{args}"]
)
def test_a_word_that_wandb_takes_as_it_is_stays(tmp_path, word):
    text = MINIMAL + f"command: [sh, -c, '{word}', '${{args}}']\n"
    assert read(tmp_path, text).command[2] == word


def test_a_command_that_passes_no_setting_on_is_warned_of(tmp_path):
    text = MINIMAL + "command: [python, train.py]\n"
    (warning,) = read(tmp_path, text).warnings
    assert "the command has no ${args}, so here all trials run with the same settings" in warning


@pytest.mark.field
def test_a_value_that_json_would_change_is_refused(tmp_path):
    with pytest.raises(
        InputError, match=r"the key .*2026.* in a value is no text, put it in quotes"
    ):
        read(tmp_path, MINIMAL + "  x: {values: [[{a: 1}, {2026-01-01: 1}]]}\n")


@pytest.mark.parametrize(
    ("goal", "value", "reached"),
    [("maximize", 0.5, True), ("maximize", 0.4, False), ("minimize", 0.5, True)],
)
def test_a_target_is_reached_from_the_good_side(goal, value, reached):
    assert Metric(name="m", goal=goal, target=0.5).reached(value) is reached
    assert not Metric(name="m", goal=goal).reached(value)
