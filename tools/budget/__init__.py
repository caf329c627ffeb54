"""Every system at one budget on CIFAR-10: tools/same_budget.py on CPU cores, tools/same_budget_gpu.py on one GPU."""
