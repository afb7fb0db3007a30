"""From records to what people read: tables and pages. No torch, no cache of stages; the records are enough."""
