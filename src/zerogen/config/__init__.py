"""What can be said: the typed schema, its rules, tasks, templates, and how YAML is read."""
