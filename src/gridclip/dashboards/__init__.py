"""What people look at: pictures, pages, panels."""
