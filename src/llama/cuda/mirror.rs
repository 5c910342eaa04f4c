//! The parameters and the kernels of `kernels/llama/`, written by `cargo xtask mirror`.
#![deny(dead_code)] // a kernel that nothing starts

use crate::device::{Kernel, Module, images, layout};

#[derive(Debug, Clone, Copy, Default)]
#[repr(C)]
pub(super) struct ActivateParams {
    pub(super) gate_up: u64,
    pub(super) hidden: u64,
    pub(super) features: u32,
    pub(super) activation: u32,
}

#[derive(Debug, Clone, Copy, Default)]
#[repr(C)]
pub(super) struct DenseParams {
    pub(super) w: u64,
    pub(super) x: u64,
    pub(super) bias: u64,
    pub(super) residual: u64,
    pub(super) y: u64,
    pub(super) m: u32,
    pub(super) n: u32,
    pub(super) k: u32,
    pub(super) reserved: u32,
}

#[derive(Debug, Clone, Copy, Default)]
#[repr(C)]
pub(super) struct EmbedParams {
    pub(super) tokens: u64,
    pub(super) table: u64,
    pub(super) x: u64,
    pub(super) k: u32,
    pub(super) reserved: u32,
}

#[derive(Debug, Clone, Copy, Default)]
#[repr(C)]
pub(super) struct NormParams {
    pub(super) x: u64,
    pub(super) weight: u64,
    pub(super) rows: u64,
    pub(super) y: u64,
    pub(super) k: u32,
    pub(super) eps: f32,
    pub(super) x_stride: u32,
    pub(super) y_stride: u32,
}

#[derive(Debug, Clone, Copy, Default)]
#[repr(C)]
pub(super) struct MoveParams {
    pub(super) x: u64,
    pub(super) y: u64,
    pub(super) from: u64,
    pub(super) to: u64,
    pub(super) k: u32,
    pub(super) x_type: u32,
    pub(super) y_type: u32,
    pub(super) reserved: u32,
}

#[derive(Debug, Clone, Copy, Default)]
#[repr(C)]
pub(super) struct ArgmaxParams {
    pub(super) logits: u64,
    pub(super) token: u64,
    pub(super) rooms: u64,
    pub(super) vocab: u32,
    pub(super) reserved: u32,
}

#[derive(Debug, Clone, Copy, Default)]
#[repr(C)]
pub(super) struct Sampler {
    pub(super) state: u64,
    pub(super) top_p: u64,
    pub(super) temperature: f32,
    pub(super) min_p: f32,
}

#[derive(Debug, Clone, Copy, Default)]
#[repr(C)]
pub(super) struct SampleParams {
    pub(super) logits: u64,
    pub(super) probability: u64,
    pub(super) samplers: u64,
    pub(super) token: u64,
    pub(super) rooms: u64,
    pub(super) vocab: u32,
    pub(super) reserved: u32,
}

layout!(ActivateParams, 24, gate_up = 0, hidden = 8, features = 16, activation = 20);
layout!(DenseParams, 56, w = 0, x = 8, bias = 16, residual = 24, y = 32, m = 40, n = 44, k = 48, reserved = 52);
layout!(EmbedParams, 32, tokens = 0, table = 8, x = 16, k = 24, reserved = 28);
layout!(NormParams, 48, x = 0, weight = 8, rows = 16, y = 24, k = 32, eps = 36, x_stride = 40, y_stride = 44);
layout!(MoveParams, 48, x = 0, y = 8, from = 16, to = 24, k = 32, x_type = 36, y_type = 40, reserved = 44);
layout!(ArgmaxParams, 32, logits = 0, token = 8, rooms = 16, vocab = 24, reserved = 28);
layout!(Sampler, 24, state = 0, top_p = 8, temperature = 16, min_p = 20);
layout!(
    SampleParams,
    48,
    logits = 0,
    probability = 8,
    samplers = 16,
    token = 24,
    rooms = 32,
    vocab = 40,
    reserved = 44
);

static MODULE_ACTIVATION: Module = Module::new("llama/activation", images::LLAMA_ACTIVATION, &["llama_activate"]);

pub(super) const ACTIVATE: Kernel<ActivateParams> = Kernel::new(&MODULE_ACTIVATION, "llama_activate", 256, 0, 24);

static MODULE_DENSE: Module = Module::new(
    "llama/dense",
    images::LLAMA_DENSE,
    &[
        "llama_dense_bf16_1",
        "llama_dense_bf16_8",
        "llama_dense_f16_1",
        "llama_dense_f16_8",
        "llama_dense_f32_1",
        "llama_dense_f32_8",
    ],
);

pub(super) const DENSE_BF16_1: Kernel<DenseParams> = Kernel::new(&MODULE_DENSE, "llama_dense_bf16_1", 32, 0, 56);
pub(super) const DENSE_BF16_8: Kernel<DenseParams> = Kernel::new(&MODULE_DENSE, "llama_dense_bf16_8", 32, 0, 56);
pub(super) const DENSE_F16_1: Kernel<DenseParams> = Kernel::new(&MODULE_DENSE, "llama_dense_f16_1", 32, 0, 56);
pub(super) const DENSE_F16_8: Kernel<DenseParams> = Kernel::new(&MODULE_DENSE, "llama_dense_f16_8", 32, 0, 56);
pub(super) const DENSE_F32_1: Kernel<DenseParams> = Kernel::new(&MODULE_DENSE, "llama_dense_f32_1", 32, 0, 56);
pub(super) const DENSE_F32_8: Kernel<DenseParams> = Kernel::new(&MODULE_DENSE, "llama_dense_f32_8", 32, 0, 56);

static MODULE_EMBEDDING: Module = Module::new(
    "llama/embedding",
    images::LLAMA_EMBEDDING,
    &["llama_embed_bf16", "llama_embed_f16", "llama_embed_f32"],
);

pub(super) const EMBED_BF16: Kernel<EmbedParams> = Kernel::new(&MODULE_EMBEDDING, "llama_embed_bf16", 256, 0, 32);
pub(super) const EMBED_F16: Kernel<EmbedParams> = Kernel::new(&MODULE_EMBEDDING, "llama_embed_f16", 256, 0, 32);
pub(super) const EMBED_F32: Kernel<EmbedParams> = Kernel::new(&MODULE_EMBEDDING, "llama_embed_f32", 256, 0, 32);

static MODULE_NORM: Module = Module::new("llama/norm", images::LLAMA_NORM, &["llama_rms_norm"]);

pub(super) const RMS_NORM: Kernel<NormParams> = Kernel::new(&MODULE_NORM, "llama_rms_norm", 256, 0, 48);

static MODULE_ROWS: Module = Module::new("llama/rows", images::LLAMA_ROWS, &["llama_move_rows"]);

pub(super) const MOVE_ROWS: Kernel<MoveParams> = Kernel::new(&MODULE_ROWS, "llama_move_rows", 256, 0, 48);

static MODULE_SAMPLING: Module =
    Module::new("llama/sampling", images::LLAMA_SAMPLING, &["llama_argmax", "llama_sample"]);

pub(super) const ARGMAX: Kernel<ArgmaxParams> = Kernel::new(&MODULE_SAMPLING, "llama_argmax", 512, 0, 32);
pub(super) const SAMPLE: Kernel<SampleParams> = Kernel::new(&MODULE_SAMPLING, "llama_sample", 512, 0, 48);

/// Every compiled source.
pub(crate) static MODULES: &[&Module] =
    &[&MODULE_ACTIVATION, &MODULE_DENSE, &MODULE_EMBEDDING, &MODULE_NORM, &MODULE_ROWS, &MODULE_SAMPLING];
