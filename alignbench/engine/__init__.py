"""All tensor code: the resident model and its adapters, log-probabilities and KL, sampling, optimisation, cost."""
