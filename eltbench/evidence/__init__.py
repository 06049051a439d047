"""From rows to verdicts: their form on disk, intervals over seeds, the rule that decides, figures, the report."""
