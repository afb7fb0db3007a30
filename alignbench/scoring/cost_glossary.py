"""What every cost of a record means; `glossary` has the rest."""

from __future__ import annotations

from alignbench.scoring.metric import Metric

COSTS = (
    Metric(
        "deploy_tokens_generated",
        "Response tokens sampled for one returned completion: for a rule that picks among n samples, n times their "
        "mean length.",
        "tokens",
        "lower",
        "Tokens sampled a completion",
    ),
    Metric(
        "deploy_tokens_judged",
        "Tokens the proxy reads for one returned completion; 0 for a policy that returns its first sample.",
        "tokens",
        "lower",
        "Tokens judged a completion",
    ),
    Metric(
        "deploy_flops",
        "Floating-point operations for one returned completion: sampling it, and the proxy's reading where a rule asks "
        "it. As evaluation ran: prompts that samples share pass once.",
        "floating-point operations",
        "lower",
        "FLOPs a completion",
    ),
    Metric(
        "seconds",
        "Wall-clock time. What simulates human raters takes none: people cost their labels.",
        "seconds",
        "lower",
        "Seconds",
    ),
    Metric(
        "cpu_seconds",
        "User and system time of the process, all threads, and of the children it waited for. Other work on the "
        "machine inflates it less than the clock's time.",
        "seconds",
        "lower",
        "CPU seconds",
    ),
    Metric(
        "peak_bytes",
        "Most memory held at once: of the accelerator if there is one, else resident in the process.",
        "bytes",
        "lower",
        "Peak memory",
    ),
    Metric(
        "flops",
        "Floating-point operations of the matrix products that ran, attention and padding included, a multiplication "
        "with its addition counted as two: forward, backward, sampling and judging. Not counted: the modules a method "
        "adds, norms, softmax, the optimiser, and what simulates human raters.",
        "floating-point operations",
        "lower",
        "FLOPs",
    ),
    Metric("tokens_generated", "Response tokens sampled from a model.", "tokens", "lower", "Tokens generated"),
    Metric("tokens_trained", "Tokens that went through a training step.", "tokens", "lower", "Tokens trained"),
    Metric(
        "tokens_judged",
        "Tokens read by reward models and judges, not by what simulates human raters.",
        "tokens",
        "lower",
        "Tokens judged",
    ),
    Metric(
        "labels_human",
        "Labels by humans, or by simulated raters in their place: a panel's comparison counts once per rater, a "
        "pair that comes with the task once.",
        "labels",
        "lower",
        "Human labels",
    ),
    Metric("labels_ai", "Labels by a model in a rater's place.", "labels", "lower", "AI labels"),
    Metric(
        "dollars",
        "Device or CPU time, human labels and tokens of judges paid by the token, at the prices of the file named in "
        "the record. None without one, or where something spent has no price in it.",
        "US dollars",
        "lower",
        "Dollars",
    ),
)
