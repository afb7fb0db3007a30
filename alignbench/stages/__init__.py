"""The harness's kinds of stage, one file each: its options, what it makes, how it is described and estimated."""
