"""`results.db`, the one file that all processes share: the ledger, and the results.

The only SQL on it is in this package. `schema` opens it, `migration` brings an older one up to
date.

The parent's side: `ledger` (admit, feed) with its parts `faults` (charge, spare, let go, retry)
and `absence` (gone, left out), which all write through `table`; `folders` is what scans compare
with. The workers' side: `completion` (an outcome and its `done` in one transaction, under the
Lock) and `burial` (what compaction may delete). `lookup` is what search asks, `reading` what
status, results and explain do.
"""
