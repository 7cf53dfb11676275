"""What a run can be told: the typed schema, its rules, tasks, templates, and how YAML is read."""
