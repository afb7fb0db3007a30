"""The harness's own reward sources. `offered` names them: a source's key must not rest on the others'."""
