"""Tasks that come with the harness. `offered` names them: a task's key must not rest on the others'."""
