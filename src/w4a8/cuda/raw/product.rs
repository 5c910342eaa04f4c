//! The whole product of activations in floating point: quantize, multiply.

use super::{ALIGNMENT, Gemv, Linear, Quantize, Source, Tokens, check_weight, name_sections};
use crate::activation::Activation;
use crate::device::{Address, Buffer, Device, ElementKind, Enqueue, Queue, product};
use crate::error::{Error, Result};
use crate::w4a8::cuda::variant::{Architecture, Variant};
use crate::w4a8::{ActScales, Format, LAYOUT_VERSION, Sections};

/// y = x' · wᵀ + bias + residual with x' = x in floating point, its RMSNorm, or act(gate) ⊙ up of it: of few tokens a [`Gemv`], where
/// [`Gemv::is_for`] says so, else a [`Quantize`] and a [`Linear`] in scratch of the engine's; the bits are the same. An engine that multiplies the
/// same x of many tokens with several weights quantizes once and makes the two calls. Gated, y = act(g) ⊙ u, where g, u are the first and the
/// second half of these outputs: that is one launch, and other sizes than it takes are refused as by [`Gemv`]. Every address is a multiple of 16.
///
/// # Example
/// ```no_run
/// use moray::Device;
/// use moray::device::{Address, ElementKind, RawCall};
/// use moray::w4a8::cuda::raw::Product;
/// use moray::w4a8::{Format, PackedWeight, quantize};
///
/// # fn upload(bytes: &[u8]) -> u64 { 0x7f00_0000_0000 }
/// # let (context, stream) = (std::ptr::null_mut(), std::ptr::null_mut());
/// let (m, n, k) = (3, 256, 512);
/// let packed = PackedWeight::pack(&quantize(&vec![0.5; n * k], n, k, Format::per_channel())?);
/// // SAFETY: the engine's context and its stream.
/// let device = unsafe { Device::from_raw(context, stream)? };
/// let weight = packed.view().sections().map(|bytes| Address::new(upload(bytes)));
/// let (x, y) = (Address::<f32>::new(0x7f10_0000_0000), Address::<f32>::new(0x7f20_0000_0000));
/// let mut call = Product::new(m, &packed, weight, x.cast(), y.cast(), ElementKind::F32);
/// call.workspace = Address::new(0x7f30_0000_0000); // zeros before the first call
/// call.workspace_bytes = call.workspace_bytes(&device);
/// // SAFETY: the engine has this memory until the stream has passed the call.
/// unsafe { call.launch(&device, stream)? };
/// # Ok::<(), moray::Error>(())
/// ```
#[derive(Debug, Clone, Copy)]
pub struct Product {
    /// Of the weight.
    pub format: Format,
    /// Tokens, 1 to 1048560.
    pub m: usize,
    /// Output features, at most 2³⁰.
    pub n: usize,
    /// Input features, a multiple of 32.
    pub k: usize,
    /// Version of the packed layout that the weight is in; kernels read [`LAYOUT_VERSION`] alone.
    pub layout: u32,
    /// The sections of [`Format::section_bytes`]; null for those that the format does not have.
    pub weight: Sections<Address>,
    /// What is quantized: all of [`Source`], but of gated outputs not [`Source::SwiGlu`].
    pub source: Source,
    /// \[M, K\], or \[M, 2·K\] for [`Source::SwiGlu`].
    pub x: Address,
    /// Of x.
    pub x_element: ElementKind,
    /// How finely tokens are scaled.
    pub act_scales: ActScales,
    /// f32 \[N\].
    pub bias: Option<Address<f32>>,
    /// \[M, N\]; none where outputs are gated.
    pub residual: Option<Address>,
    /// act, where outputs are gated.
    pub gate: Option<Activation>,
    /// \[M, N\], gated \[M, N/2\].
    pub y: Address,
    /// Of y and residual.
    pub element: ElementKind,
    /// [`Product::workspace_bytes`] of scratch: zeros before the first call that uses it, in order between calls. A product in one launch does
    /// not touch it. A launch cut short ends its context and this memory with it; whoever copies it to another context clears it there.
    pub workspace: Address,
    /// Bytes there.
    pub workspace_bytes: usize,
}

/// Where the parts of the scratch begin, and its size, in bytes.
struct Scratch {
    /// Zeros between calls, these two, so at the same place for every M.
    arrived: usize,
    partial: usize,
    tokens: usize,
    bytes: usize,
}

impl Product {
    /// A product of M tokens as they are with a packed weight whose sections are at these addresses, x and y of one type, one scale for
    /// each token, without bias, residual and gate; the workspace is still to be said.
    pub fn new(
        m: usize,
        packed: &crate::w4a8::PackedWeight,
        weight: Sections<Address>,
        x: Address,
        y: Address,
        element: ElementKind,
    ) -> Self {
        let sections = packed.view().sections();
        let null = |(address, bytes): (Address, &[u8])| if bytes.is_empty() { Address::NULL } else { address };
        Product {
            format: packed.format(),
            m,
            n: packed.n(),
            k: packed.k(),
            layout: LAYOUT_VERSION,
            weight: weight.zip(sections).map(null),
            source: Source::Plain,
            x,
            x_element: element,
            act_scales: ActScales::Token,
            bias: None,
            residual: None,
            gate: None,
            y,
            element,
            workspace: Address::NULL,
            workspace_bytes: 0,
        }
    }

    /// Bytes of scratch on a device; as many serve every smaller M. 0 where outputs are gated.
    pub fn workspace_bytes(&self, device: &Device) -> usize {
        if self.gate.is_some() { 0 } else { self.scratch(device).bytes }
    }

    fn variant(&self, device: &Device) -> Variant {
        Variant::choose(Architecture::of(device), self.format, self.act_scales, self.m, self.n, self.k)
    }

    fn scratch(&self, device: &Device) -> Scratch {
        // whatever M is
        let (partial, arrived) = Variant::most_workspace_words(Architecture::of(device));
        let mut end = 0usize;
        let mut part = |bytes: usize| {
            let start = end;
            end = end.saturating_add(bytes).checked_next_multiple_of(ALIGNMENT as usize).unwrap_or(usize::MAX);
            start
        };
        Scratch {
            arrived: part(product([arrived, size_of::<u32>()])),
            partial: part(product([partial, size_of::<u32>()])),
            tokens: part(self.tokens(Address::NULL).bytes()),
            bytes: end,
        }
    }

    fn tokens(&self, memory: Address) -> Tokens {
        Tokens { m: self.m, k: self.k, scales: self.act_scales, memory }
    }

    /// Whether it is one launch on a device.
    pub fn is_one(&self, device: &Device) -> bool {
        let is_for = || Gemv::is_for(Architecture::of(device), self.format, self.act_scales, self.m, self.n, self.k);
        self.gate.is_some() || (!matches!(self.source, Source::SwiGlu { .. }) && is_for())
    }

    fn one(&self) -> Gemv {
        Gemv {
            format: self.format,
            m: self.m,
            n: self.n,
            k: self.k,
            layout: self.layout,
            weight: self.weight,
            source: self.source,
            x: self.x,
            x_element: self.x_element,
            act_scales: self.act_scales,
            bias: self.bias,
            residual: self.residual,
            gate: self.gate,
            y: self.y,
            element: self.element,
        }
    }

    fn calls(&self, device: &Device) -> (Quantize, Linear) {
        let scratch = self.scratch(device);
        let at = |start: usize| self.workspace.offset(start);
        let tokens = self.tokens(at(scratch.tokens));
        let linear = Linear {
            format: self.format,
            variant: self.variant(device),
            m: self.m,
            n: self.n,
            k: self.k,
            layout: self.layout,
            weight: self.weight,
            x: tokens.codes(),
            act_scales: self.act_scales,
            act_scale: tokens.scale(),
            sums: tokens.sums(self.format),
            bias: self.bias,
            residual: self.residual,
            y: self.y,
            element: self.element,
            partial: at(scratch.partial).cast(),
            arrived: at(scratch.arrived).cast(),
        };
        (tokens.quantize(self.source, self.x, self.x_element), linear)
    }
}

impl Enqueue for Product {
    fn check_sizes(&self, device: &Device) -> Result<()> {
        if self.is_one(device) {
            self.one().check_sizes(device)?;
        } else {
            check_weight(self.format, self.n, self.k, self.layout)?;
            let (quantize, linear) = self.calls(device);
            quantize.check_sizes(device)?;
            linear.check_sizes(device)?;
        }
        let expected = self.workspace_bytes(device);
        match self.workspace_bytes < expected {
            true => Err(Error::Length { what: "workspace", expected, got: self.workspace_bytes }),
            false => Ok(()),
        }
    }

    fn name_buffers(&self, device: &Device, show: &mut dyn FnMut(Buffer)) {
        name_sections(self.format, self.n, self.k, &self.weight, show);
        let mut show = |buffer: Buffer| show(buffer.aligned(ALIGNMENT));
        let wide = if matches!(self.source, Source::SwiGlu { .. }) { 2 } else { 1 };
        let outputs = product([self.m, if self.gate.is_some() { self.n / 2 } else { self.n }]);
        show(Buffer::read("x", self.x, product([self.m, self.k, wide])).of_bytes(self.x_element.bytes()));
        if let Source::RmsNorm { weight, .. } = self.source {
            show(Buffer::read("norm_weight", weight, self.k));
        }
        if let Some(bias) = self.bias {
            show(Buffer::read("bias", bias, self.n));
        }
        if let Some(residual) = self.residual {
            show(Buffer::read("residual", residual, outputs).of_bytes(self.element.bytes()));
        }
        show(Buffer::write("y", self.y, outputs).of_bytes(self.element.bytes()));
        show(Buffer::write("workspace", self.workspace, self.workspace_bytes(device)));
    }

    fn enqueue(&self, queue: &Queue<'_>) -> Result<()> {
        if self.is_one(queue.device()) {
            return self.one().enqueue(queue);
        }
        let (quantize, linear) = self.calls(queue.device());
        quantize.enqueue(queue)?;
        linear.enqueue(queue)
    }
}
