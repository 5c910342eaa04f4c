//! Sparse MLPs on a device.

use std::sync::Arc;

use candle_core::backend::BackendStorage;
use candle_core::cuda_backend::CudaStorage;
use candle_core::cuda_backend::cudarc::driver::CudaSlice;
use candle_core::{Device, DeviceLocation, Error, Result, Shape};
use moray::sparse_mlp::cuda::{MAX_TOKENS, NeuronList, Score, Selection as Neurons, Weights, forward, upload_masks};
use moray::sparse_mlp::{self as mlp, IndexList, ScoreOn, TokenMasks};

use super::{Buffers, Element, Resident, device, result, storage};
use crate::rows::{Argument, with_float};
use crate::selection::Resolved;

/// The weights of an MLP in memory of a device.
#[derive(Debug, Clone)]
pub(crate) struct Mlp(Arc<Resident<Weights>>);

impl Mlp {
    pub(crate) fn upload(weights: &mlp::Weights, to: &Device) -> Result<Self> {
        Ok(Mlp(Arc::new(Resident::new(device(to)?, |device| Weights::upload(device, weights))?)))
    }

    pub(crate) fn shape(&self) -> mlp::Shape {
        self.0.held().shape()
    }

    pub(crate) fn location(&self) -> DeviceLocation {
        self.0.location()
    }

    pub(crate) fn run(
        &self,
        buffers: &Buffers,
        selection: &Resolved,
        x: Argument<'_, CudaStorage>,
    ) -> Result<(CudaStorage, Shape)> {
        with_float!(x, E => self.compute::<E>(buffers, selection, x))
    }

    fn compute<E: Element>(
        &self,
        buffers: &Buffers,
        selection: &Resolved,
        x: Argument<'_, CudaStorage>,
    ) -> Result<(CudaStorage, Shape)> {
        let (weights, device) = (self.0.held(), self.0.with_stream_of(&x)?);
        let mlp::Shape { d_model, d_ff, .. } = weights.shape();
        let (tokens, on) = (x.rows(d_model)?, x.storage.device());
        selection.view(tokens, weights.shape()).map_err(Error::wrap)?;
        // SAFETY: the runs below write the rows of all tokens.
        let mut y = unsafe { result::<E>(on, tokens * d_model)? };
        let rows = x.in_rows::<E>()?;
        let values = rows.view()?;
        for first in (0..tokens).step_by(MAX_TOKENS) {
            let count = MAX_TOKENS.min(tokens - first);
            let part = first * d_model..(first + count) * d_model;
            let (x, mut y) = (values.slice(part.clone()), y.slice_mut(part));
            let run = |workspace: &mut _| {
                let chosen = Chosen::upload(&device, selection, first, count, d_ff)?;
                forward::<E, E>(&device, weights, &x, count, &chosen.view(), None, &mut y, workspace)
            };
            buffers.with_mlp(&device, weights, run).map_err(Error::wrap)?;
        }
        Ok((storage(y, on), x.layout.shape().clone()))
    }
}

/// What some tokens compute, in memory of the device.
enum Chosen {
    All,
    List(NeuronList),
    Masks(CudaSlice<u32>),
    Union { list: NeuronList, masks: CudaSlice<u32> },
    Threshold { on: ScoreOn, scale: Option<CudaSlice<f32>>, threshold: f32 },
    TopK { on: ScoreOn, scale: Option<CudaSlice<f32>>, k: usize },
}

impl Chosen {
    /// Copies the part of so many tokens from one on.
    fn upload(device: &moray::Device, of: &Resolved, first: usize, count: usize, d_ff: usize) -> moray::Result<Self> {
        let list = |list: &[u32]| -> moray::Result<NeuronList> {
            let mut there = NeuronList::new(device, d_ff)?;
            there.set(device, IndexList::new(list, d_ff)?)?;
            Ok(there)
        };
        let words = d_ff.div_ceil(64);
        let masks = |masks: &[u64]| -> moray::Result<CudaSlice<u32>> {
            let part = &masks[first * words..(first + count) * words];
            upload_masks(device, &TokenMasks::new(part, count, d_ff)?)
        };
        let scale = |scale: &Option<Vec<f32>>| scale.as_ref().map(|scale| device.upload(scale)).transpose();
        Ok(match of {
            Resolved::All => Chosen::All,
            Resolved::List(l) => Chosen::List(list(l)?),
            Resolved::Masks(m) => Chosen::Masks(masks(m)?),
            Resolved::Union { list: l, masks: m } => Chosen::Union { list: list(l)?, masks: masks(m)? },
            Resolved::Threshold { on, scale: s, threshold } => {
                Chosen::Threshold { on: *on, scale: scale(s)?, threshold: *threshold }
            }
            Resolved::TopK { on, scale: s, k } => Chosen::TopK { on: *on, scale: scale(s)?, k: *k },
        })
    }

    fn view(&self) -> Neurons<'_> {
        let score = |on: &ScoreOn, scale| Score { on: *on, channel_scale: Option::as_ref(scale) };
        match self {
            Chosen::All => Neurons::All,
            Chosen::List(list) => Neurons::List(list),
            Chosen::Masks(masks) => Neurons::Masks(masks),
            Chosen::Union { list, masks } => Neurons::Union { list, masks },
            Chosen::Threshold { on, scale, threshold } => {
                Neurons::Threshold { score: score(on, scale), threshold: *threshold }
            }
            Chosen::TopK { on, scale, k } => Neurons::TopK { score: score(on, scale), k: *k },
        }
    }
}
