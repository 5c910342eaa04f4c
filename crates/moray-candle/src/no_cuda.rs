//! What stands in for operations on CUDA tensors where the feature `cuda` is off: nothing is ever there.

use std::marker::PhantomData;

use candle_core::{CudaStorage, Device, DeviceLocation, Result, Shape, bail};
use moray::attention::{self, AttentionShape, KvDtype, KvPolicy, KvShape, Span};
use moray::w4a8::{ActScales, PackedWeight};
use moray::{input_sparse, sparse_mlp};

use crate::place::OnCuda;
use crate::rows::{Argument, location};
use crate::selection::Resolved;

/// What there is none of.
#[derive(Debug)]
pub(crate) enum Nothing {}

/// A place that no layer comes to.
///
/// # Errors
/// Always.
pub(crate) fn device(to: &Device) -> Result<Nothing> {
    bail!(
        "device: expected the CPU, as moray-candle was built without the feature cuda, got {}",
        location(&to.location())
    )
}

#[derive(Debug)]
pub(crate) struct Buffers;

impl Buffers {
    pub(crate) const fn new() -> Self {
        Buffers
    }
}

/// A weight and a bias where nothing is.
#[derive(Debug)]
pub(crate) struct Biased<W>(Nothing, PhantomData<W>);

impl<W> Clone for Biased<W> {
    fn clone(&self) -> Self {
        match self.0 {}
    }
}

impl<W> OnCuda for Biased<W> {
    type Weight = W;

    fn upload(_: &W, _: Option<&[f32]>, to: &Device) -> Result<Self> {
        match device(to)? {}
    }

    fn with_bias(self, _: &[f32], _: &Device) -> Result<Self> {
        match self.0 {}
    }

    fn n(&self) -> usize {
        match self.0 {}
    }

    fn location(&self) -> DeviceLocation {
        match self.0 {}
    }
}

pub(crate) type Linear = Biased<PackedWeight>;

impl Linear {
    pub(crate) fn run(
        &self,
        _: &Buffers,
        _: ActScales,
        _: Argument<'_, CudaStorage>,
        _: Option<Argument<'_, CudaStorage>>,
    ) -> Result<(CudaStorage, Shape)> {
        match self.0 {}
    }
}

pub(crate) type InputWeight = Biased<input_sparse::Weight>;

impl InputWeight {
    pub(crate) fn run(&self, _: &Buffers, _: f32, _: Argument<'_, CudaStorage>) -> Result<(CudaStorage, Shape)> {
        match self.0 {}
    }
}

#[derive(Debug, Clone)]
pub(crate) enum Mlp {}

impl Mlp {
    pub(crate) fn upload(_: &sparse_mlp::Weights, to: &Device) -> Result<Self> {
        match device(to)? {}
    }

    pub(crate) fn shape(&self) -> sparse_mlp::Shape {
        match *self {}
    }

    pub(crate) fn location(&self) -> DeviceLocation {
        match *self {}
    }

    pub(crate) fn run(&self, _: &Buffers, _: &Resolved, _: Argument<'_, CudaStorage>) -> Result<(CudaStorage, Shape)> {
        match *self {}
    }
}

#[derive(Debug)]
pub(crate) enum Cache {}

/// The inputs of a call, which nothing takes.
#[allow(dead_code)]
pub(crate) struct Inputs<'a> {
    pub(crate) q: Argument<'a, CudaStorage>,
    pub(crate) k: Argument<'a, CudaStorage>,
    pub(crate) v: Argument<'a, CudaStorage>,
}

impl Cache {
    pub(crate) fn new(
        _: AttentionShape,
        _: KvShape,
        _: KvDtype,
        _: KvPolicy,
        _: Option<&attention::Rope>,
        to: &Device,
    ) -> Result<Self> {
        match device(to)? {}
    }

    pub(crate) fn len(&self, _: usize) -> usize {
        match *self {}
    }

    pub(crate) fn truncate(&mut self, _: usize, _: usize) -> Result<()> {
        match *self {}
    }

    pub(crate) fn run(
        &mut self,
        _: usize,
        _: &[Span],
        _: attention::Heads<'_>,
        _: Inputs<'_>,
    ) -> Result<(CudaStorage, Shape)> {
        match *self {}
    }
}
