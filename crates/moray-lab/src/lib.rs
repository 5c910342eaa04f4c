//! The library behind the `moray` command: model files, tokenizers and the studies built on moray's kernels.
