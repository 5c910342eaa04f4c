//! A CUDA device for the forward pass: [`Device`] is a [`super::Backend`].
//!
//! A model is loaded on the CPU and copied to the device by [`upload`]; sessions, prefill and decoding are then those of
//! [`super::Model`]. [`Decoder`] replays decoding as one captured graph, tokens and positions in device memory.
//!
//! # Example
//! ```no_run
//! use moray::llama::{Model, Settings, cuda};
//! use moray::{Cpu, Device};
//!
//! fn first_logits(model: &Model<Cpu>) -> moray::Result<Vec<f32>> {
//!     let device = Device::new(0)?;
//!     let model = cuda::upload(&device, model)?;
//!     let mut session = model.session(&device, Settings::dense(256))?;
//!     Ok(model.prefill(&device, &mut session, 0, &[1, 2, 3])?.to_vec())
//! }
//! ```

mod backend;
mod decoder;
mod inputs;
mod kernels;
mod linear;
mod mirror;
mod neurons;
pub mod raw;
mod sampling;
mod selection;
mod work;

pub use decoder::Decoder;
pub use kernels::{DenseWeight, NO_TOKEN, Rooms, argmax};
pub use linear::{Linear, Weight};
pub(crate) use mirror::MODULES;
pub use sampling::Samplers;
pub use work::Work;

use super::{Layer, Mlp, Model};
use crate::cpu::Cpu;
use crate::device::Device;
use crate::error::Result;
use crate::sparse_mlp;

/// Copies a model to the device.
///
/// # Errors
/// [`crate::Error::OutOfMemory`] if it does not fit, [`crate::Error::Unsupported`] for weights that have no kernels.
pub fn upload(device: &Device, model: &Model<Cpu>) -> Result<Model<Device>> {
    device.prepare(MODULES)?;
    let layer = |layer: &Layer<Cpu>| {
        Ok(Layer {
            attn_norm: device.upload(&layer.attn_norm)?,
            qkv: Linear::upload(device, &layer.qkv)?,
            o: Linear::upload(device, &layer.o)?,
            mlp_norm: device.upload(&layer.mlp_norm)?,
            mlp: match &layer.mlp {
                Mlp::Whole { gate_up, down } => {
                    Mlp::Whole { gate_up: Linear::upload(device, gate_up)?, down: Linear::upload(device, down)? }
                }
                Mlp::ByNeuron(weights) => Mlp::ByNeuron(sparse_mlp::cuda::Weights::upload(device, weights)?),
            },
        })
    };
    let layers = model.layers().iter().map(layer).collect::<Result<_>>()?;
    // a tied output layer is held once
    let head = model.own_lm_head().map(|head| Linear::upload(device, head)).transpose()?;
    Model::new(
        model.config().clone(),
        Linear::upload(device, model.embedding())?,
        layers,
        device.upload(model.final_norm())?,
        head,
    )
}
