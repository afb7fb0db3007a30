"""The only code that writes files people keep: stages under their content keys, single files whole or absent."""

from alignbench.store.artefacts import (
    FORMAT,
    Store,
    read_json,
    read_rows,
    store_home,
    write_json,
    write_rows,
    write_text,
)

__all__ = ["FORMAT", "Store", "read_json", "read_rows", "store_home", "write_json", "write_rows", "write_text"]
