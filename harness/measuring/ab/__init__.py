"""Base and head measured in turn on one machine: what `gate --base REV` judges. Judging is analysis/gate's alone."""
