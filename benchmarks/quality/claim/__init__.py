"""The claim tested: the plan of steps, their recipes, and the report with one verdict line."""
