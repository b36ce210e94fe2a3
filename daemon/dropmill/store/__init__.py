"""`results.db`, the one file that all processes share: the ledger, and the results.

The only SQL on it is in this package: `schema` opens it, `ledger` is the parent's side (admit,
feed, charge), `completion` the workers' side (an outcome and its `done` in one transaction, under
the Lock), `reading` what search, status, results and explain ask.
"""
