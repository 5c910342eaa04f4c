//! Activations in the forms that kernels take.

use crate::device::{Access, Address, Buffer, ElementKind, or_null, product};
use crate::error::{Error, Result};
use crate::sparse_mlp::cuda::variant::{is_tiled, operand_of};
use crate::sparse_mlp::cuda::{RowFormat, mirror};

/// Tokens of a tile of the operand.
const TILE_TOKENS: usize = 8;

/// Bytes of a tile: 8 tokens by one span of k.
const TILE_BYTES: usize = 512;

/// int8 activations of 2 to 8 tokens: x = scale · code.
#[derive(Debug, Clone, Copy)]
pub struct Codes {
    /// int8 \[tokens, stride\], aligned to 16 bytes.
    pub codes: Address<i8>,
    /// int32 \[tokens, stride / 32\]: sums of 32 codes each.
    pub sums: Address<i32>,
    /// f32 \[tokens\].
    pub scale: Address<f32>,
}

impl Codes {
    pub(super) fn name_buffers(&self, tokens: usize, stride: usize, access: Access, show: &mut dyn FnMut(Buffer)) {
        let codes = Buffer::read("codes", self.codes, product([tokens, stride])).aligned(16);
        show(Buffer { access, ..codes });
        show(Buffer { access, ..Buffer::read("sums", self.sums, product([tokens, stride.div_ceil(32)])) });
        show(Buffer { access, ..Buffer::read("act_scale", self.scale, tokens) });
    }

    fn params(&self) -> mirror::Codes {
        mirror::Codes { codes: self.codes.get(), sums: self.sums.get(), scale: self.scale.get() }
    }
}

/// Activations of more than 8 tokens, as the matrix units take them: kernels/sparse_mlp/operand.cuh. 16-bit rows meet f32
/// activations as two f16 or three bf16 whose sum they are, 4-bit rows meet int8.
#[derive(Debug, Clone, Copy)]
pub struct Operand {
    /// [`Operand::tile_bytes`], aligned to 16 bytes.
    pub tiles: Address,
    /// int32 \[width / 32 + 1, tokens rounded up to 8\]: running sums of codes. Of x for 4-bit rows.
    pub sums: Option<Address<i32>>,
    /// f32 \[tokens\].
    pub scale: Address<f32>,
    /// Values of a token that there is room for.
    pub width: usize,
}

impl Operand {
    /// Bytes at [`Operand::tiles`].
    pub fn tile_bytes(format: RowFormat, tokens: usize, width: usize) -> usize {
        let (parts, span) = operand_of(format);
        product([parts, tokens.div_ceil(TILE_TOKENS), width.div_ceil(span), TILE_BYTES])
    }

    /// Numbers at [`Operand::sums`].
    pub fn sum_elems(tokens: usize, width: usize) -> usize {
        product([width / 32 + 1, tokens.div_ceil(TILE_TOKENS), TILE_TOKENS])
    }

    pub(super) fn name_buffers(&self, format: RowFormat, tokens: usize, access: Access, show: &mut dyn FnMut(Buffer)) {
        let tiles = Buffer::read("tiles", self.tiles, Operand::tile_bytes(format, tokens, self.width)).aligned(16);
        show(Buffer { access, ..tiles });
        if let Some(sums) = self.sums {
            show(Buffer { access, ..Buffer::read("sums", sums, Operand::sum_elems(tokens, self.width)).aligned(16) });
        }
        show(Buffer { access, ..Buffer::read("act_scale", self.scale, tokens) });
    }

    pub(super) fn params(&self, format: RowFormat, tokens: usize) -> mirror::Operand {
        mirror::Operand {
            tiles: self.tiles.get(),
            sums: or_null(self.sums),
            scale: self.scale.get(),
            token_tiles: tokens.div_ceil(TILE_TOKENS) as u32,
            spans: self.width.div_ceil(operand_of(format).1) as u32,
        }
    }
}

/// The activations of a projection: which form is a matter of the rows and of how many tokens there are.
#[derive(Debug, Clone, Copy)]
pub enum Activations {
    /// \[tokens, stride\] as they are, aligned to 16 bytes: up to 8 tokens; of gate and up, 4-bit rows take those of one.
    Floats(Address, ElementKind),
    /// 2 to 8 tokens of gate and up, 4-bit rows.
    Codes(Codes),
    /// More than 8 tokens.
    Operand(Operand),
}

/// Whether gate and up take so many tokens' inputs as codes.
pub(super) fn takes_codes(format: RowFormat, tokens: usize) -> bool {
    format == RowFormat::FourBit && tokens > 1 && !is_tiled(tokens)
}

impl Activations {
    /// Checks that they are the form that gate and up take, with d_model values.
    pub(super) fn check_inputs(&self, format: RowFormat, tokens: usize, d_model: usize) -> Result<()> {
        match self {
            Activations::Codes(_) if takes_codes(format, tokens) => Ok(()),
            Activations::Floats(..) if takes_codes(format, tokens) => self.refuse("x"),
            _ => self.check("x", format, tokens, d_model),
        }
    }

    /// Checks that they are the form that down takes, with d_ff values.
    pub(super) fn check_hidden(&self, format: RowFormat, tokens: usize, d_ff: usize) -> Result<()> {
        match self {
            Activations::Floats(_, ElementKind::F16 | ElementKind::Bf16) => self.refuse("hidden"),
            _ => self.check("hidden", format, tokens, d_ff),
        }
    }

    fn check(&self, what: &'static str, format: RowFormat, tokens: usize, n: usize) -> Result<()> {
        match self {
            Activations::Floats(..) if !is_tiled(tokens) => Ok(()),
            Activations::Operand(operand) if is_tiled(tokens) && operand.width < n => {
                Err(Error::Shape { what, expected: "an operand with room for a row", got: operand.width })
            }
            Activations::Operand(operand) if is_tiled(tokens) => {
                match what == "x" && format == RowFormat::FourBit && operand.sums.is_none() {
                    true => Err(Error::Misaligned { what: "sums", expected: 4, got: 0 }),
                    false => Ok(()),
                }
            }
            _ => self.refuse(what),
        }
    }

    fn refuse(&self, what: &'static str) -> Result<()> {
        let (expected, got) = ("the form that these rows and tokens take", format!("{self:?}"));
        Err(Error::Unsupported { what, expected, got })
    }

    pub(super) fn name_buffers(
        &self,
        what: &'static str,
        format: RowFormat,
        (tokens, stride): (usize, usize),
        show: &mut dyn FnMut(Buffer),
    ) {
        match self {
            Activations::Floats(x, kind) => {
                show(Buffer::read(what, *x, product([tokens, stride])).of_bytes(kind.bytes()).aligned(16));
            }
            Activations::Codes(codes) => codes.name_buffers(tokens, stride, Access::Read, show),
            Activations::Operand(operand) => operand.name_buffers(format, tokens, Access::Read, show),
        }
    }

    /// Floats, their type, codes and operand as kernels take them, of which one form is there.
    pub(super) fn params(&self, format: RowFormat, tokens: usize) -> (u64, u32, mirror::Codes, mirror::Operand) {
        let (codes, operand) = (mirror::Codes::default(), mirror::Operand::default());
        match self {
            Activations::Floats(x, kind) => (x.get(), *kind as u32, codes, operand),
            Activations::Codes(codes) => (0, 0, codes.params(), operand),
            Activations::Operand(operand) => (0, 0, codes, operand.params(format, tokens)),
        }
    }
}
