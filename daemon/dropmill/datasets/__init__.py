"""Data sets: tables that are filtered and aggregated by the rules of the configuration.

```
 rule (YAML) ─► expression: checked, columns known ─┐
 file ─► table: its format, header, record borders ─┴─► engine (Polars): one piece → Partial
                                                        partial: pieces → the file's result
```

A piece is what a take is: bytes of one file, from the beginning of a record to the end of one.
Its partial result lies with its take in `results.db`, and counts if and only if the take is live.
"""
