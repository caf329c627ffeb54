"""Reference files that lie beside the cases: schedules, parameter groups, the evaluation transform."""
