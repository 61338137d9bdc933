"""The only package with SQL or a database driver: runs, journals and inboxes, kept."""
