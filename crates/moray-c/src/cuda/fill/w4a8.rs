//! Quantization and multiplication.

use super::element;
use crate::MorayBytes;
use crate::activations::scales;
use crate::cuda::call::Fill;
use crate::cuda::lent::Lent;
use crate::cuda::{
    MORAY_SOURCE_GATED, MORAY_SOURCE_PLAIN, MORAY_SOURCE_RMS_NORM, MorayCudaActivations, MorayCudaLinear,
    MorayCudaProduct, MorayCudaQuantize, MorayCudaWeight, MoraySource,
};
use crate::mlp::{MorayActivation, activation};
use crate::status::{Fault, Outcome};
use moray::Error;
use moray::device::{Address, Device};
use moray::w4a8::Sections;
use moray::w4a8::cuda::raw::{Linear, Product, Quantize, Source, Tokens};
use moray::w4a8::cuda::{Architecture, Variant};

/// What the workspace's parts begin at multiples of.
const ALIGNMENT: usize = 16;

impl MorayCudaActivations {
    /// The tokens, at an address that is still to be said.
    fn read(&self) -> Outcome<Tokens> {
        Ok(Tokens { m: self.m, k: self.k, scales: scales(self.scales)?, memory: Address::NULL })
    }
}

impl MorayCudaWeight {
    fn sections(&self, lent: &mut Lent) -> Sections<Address> {
        let names = Sections { codes: "codes", channel: "channel", group: "group", offset: "offset" };
        let crate::MoraySections { codes, channel, group, offset } = self.sections;
        names.zip(Sections { codes, channel, group, offset }).map(|(what, memory)| lent.read(what, memory))
    }
}

/// What is quantized, by what C has for it.
fn source(
    source: MoraySource,
    (norm_weight, eps): (MorayBytes, f32),
    of_gate: MorayActivation,
    lent: &mut Lent,
) -> Outcome<Source> {
    match source {
        MORAY_SOURCE_PLAIN => Ok(Source::Plain),
        MORAY_SOURCE_RMS_NORM => Ok(Source::RmsNorm { weight: lent.read("norm_weight", norm_weight), eps }),
        MORAY_SOURCE_GATED => Ok(Source::SwiGlu { activation: activation("activation", of_gate)? }),
        other => Err(Fault::unsupported("source", "a MORAY_SOURCE_ constant", other)),
    }
}

impl Fill for MorayCudaQuantize {
    type Call = Quantize;

    fn fill(&self, _: &Device, lent: &mut Lent) -> Outcome<Quantize> {
        let source = source(self.source, (self.norm_weight, self.eps), self.activation, lent)?;
        let mut tokens = self.out.read()?;
        let (x, element) = (lent.read("x", self.x), element(self.dtype)?);
        tokens.memory = lent.write_within("out.memory", self.out.memory, tokens.bytes());
        Ok(tokens.quantize(source, x, element))
    }

    fn bytes(call: &Quantize, _: &Device) -> usize {
        Tokens { m: call.m, k: call.k, scales: call.scales, memory: Address::NULL }.bytes()
    }
}

impl Fill for MorayCudaLinear {
    type Call = Linear;

    fn fill(&self, device: &Device, lent: &mut Lent) -> Outcome<Linear> {
        let mut tokens = self.x.read()?;
        let (format, n, k) = (self.weight.format.read()?, self.weight.n, self.weight.k);
        if tokens.k != k {
            return Err(Error::Shape { what: "x.k", expected: "the weight's K", got: tokens.k }.into());
        }
        tokens.memory = lent.read_within("x.memory", self.x.memory.as_read(), tokens.bytes());
        let mut linear = Linear {
            format,
            variant: Variant::choose(Architecture::of(device), format, tokens.scales, tokens.m, n, k),
            m: tokens.m,
            n,
            k,
            layout: self.weight.layout_version,
            weight: self.weight.sections(lent),
            x: tokens.codes(),
            act_scales: tokens.scales,
            act_scale: tokens.scale(),
            sums: tokens.sums(format),
            bias: lent.optional("bias", self.bias),
            residual: lent.optional("residual", self.residual),
            y: lent.write("y", self.y),
            element: element(self.dtype)?,
            partial: Address::NULL,
            arrived: Address::NULL,
        };
        let workspace = lent.write_within("workspace", self.workspace, Self::bytes(&linear, device));
        if Self::bytes(&linear, device) > 0 {
            linear.arrived = workspace.cast();
            linear.partial = workspace.offset(counters(&linear)).cast();
        }
        Ok(linear)
    }

    fn bytes(call: &Linear, _: &Device) -> usize {
        counters(call).saturating_add(call.workspace_bytes())
    }
}

impl Fill for MorayCudaProduct {
    type Call = Product;

    fn fill(&self, device: &Device, lent: &mut Lent) -> Outcome<Product> {
        let gate = match self.gated {
            0 => None,
            1 => Some(activation("activation", self.activation)?),
            other => return Err(Fault::unsupported("gated", "0 or 1", other)),
        };
        let mut call = Product {
            format: self.weight.format.read()?,
            m: self.m,
            n: self.weight.n,
            k: self.weight.k,
            layout: self.weight.layout_version,
            weight: self.weight.sections(lent),
            source: source(self.source, (self.norm_weight, self.eps), self.activation, lent)?,
            x: lent.read("x", self.x),
            x_element: element(self.x_dtype)?,
            act_scales: scales(self.scales)?,
            bias: lent.optional("bias", self.bias),
            residual: lent.optional("residual", self.residual),
            gate,
            y: lent.write("y", self.y),
            element: element(self.dtype)?,
            workspace: Address::NULL,
            workspace_bytes: 0,
        };
        call.workspace_bytes = call.workspace_bytes(device);
        call.workspace = lent.write_within("workspace", self.workspace, call.workspace_bytes);
        Ok(call)
    }

    fn bytes(call: &Product, _: &Device) -> usize {
        call.workspace_bytes
    }
}

/// Bytes up to where the sums of a workspace begin.
fn counters(call: &Linear) -> usize {
    call.counter_bytes().checked_next_multiple_of(ALIGNMENT).unwrap_or(usize::MAX)
}
