"""L4: stage, plan, runner, gates, budget, ledger."""
