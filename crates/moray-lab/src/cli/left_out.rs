//! `--sparse`, `--inputs`, `--short-rows` and `--logits`: what of the matrices is not read for a token, part by part or as one scheme.

use std::fmt;
use std::num::NonZeroUsize;
use std::str::FromStr;

use clap::{ArgMatches, Args, Command, FromArgMatches, ValueEnum};
use moray::policy::{Named, Site};

use super::switches::{inputs, inputs_help};
use super::{LogitsSwitch, Looked};

/// Which inputs of the layers' matrices are read and which logits are computed exactly.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LeftOut {
    /// Inputs that are read.
    pub inputs: Named,
    /// Which matrices that is said of.
    pub short_rows: ShortRows,
    /// Logits that are computed exactly.
    pub logits: LogitsSwitch,
}

impl LeftOut {
    /// Everything is read.
    pub const NOTHING: LeftOut =
        LeftOut { inputs: Named::EVERY_INPUT, short_rows: ShortRows::Sparse, logits: LogitsSwitch(None) };
}

/// What is done with matrices of which an input's weights take less than [`crate::load::SHORT_ROW`] bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum ShortRows {
    /// Inputs are selected there as everywhere.
    #[default]
    Sparse,
    /// They lie by output, and are read whole.
    Whole,
}

/// A scheme of `--sparse` with the share of the inputs that it keeps.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Scheme {
    kept: f32,
}

impl Scheme {
    /// Its name.
    pub const NAME: &'static str = "auto";

    /// Its name and argument.
    pub const SYNTAX: &'static str = "auto:K";

    /// The kept share where none is stated: what costs 2.3 ± 1.5% of perplexity over 16-bit weights in results/study.md.
    const KEPT: f32 = 0.75;

    /// Logits of a token that are exact, and the share of the inputs that the look at the others reads.
    const LOGITS: Looked = Looked { exact: NonZeroUsize::MIN.saturating_add(63), read: 0.7 };

    /// The parts that it stands for.
    ///
    /// # Errors
    /// As [`Named::parse`].
    pub fn parts(self) -> moray::Result<LeftOut> {
        let inputs = Named::parse(Site::INPUTS[0], &format!("teal:{}", self.kept))?;
        Ok(LeftOut { inputs, short_rows: ShortRows::Whole, logits: LogitsSwitch(Some(Self::LOGITS)) })
    }
}

impl FromStr for Scheme {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let stated = match text.strip_prefix(Self::NAME) {
            Some("") => Some(Self::KEPT),
            rest => rest.and_then(|rest| rest.strip_prefix(':')?.parse().ok()),
        };
        match stated.filter(|kept| *kept > 0.0 && *kept <= 1.0) {
            Some(kept) => Ok(Scheme { kept }),
            None => Err(format!("expected auto or auto:K, K the kept share of the inputs in (0, 1], got {text}")),
        }
    }
}

impl fmt::Display for Scheme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", Self::NAME, self.kept)
    }
}

/// The switches as they are stated.
#[derive(Args)]
struct Stated {
    /// One scheme for all matrices: auto:K, which is --inputs teal:K --short-rows whole --logits preview:64:0.7, K the kept share of the
    /// inputs, 0.75 for auto alone; none by default. What it stands for cannot be stated besides.
    #[arg(long, conflicts_with_all = ["inputs", "short_rows", "logits", "mlp"])]
    sparse: Option<Scheme>,
    /// Inputs that are read.
    #[arg(long, default_value = "all", value_parser = inputs, help = inputs_help())]
    inputs: Named,
    /// Where an input's weights in a matrix take less than 1024 bytes, which memory gives with those around them: sparse, --inputs selects
    /// there too; whole, the matrix lies by output and all of it is read.
    #[arg(long, value_enum, default_value_t)]
    short_rows: ShortRows,
    /// Logits that are computed exactly: all, or preview:N, for each token the N largest by a copy of the output layer in 4 bits; the others
    /// are that copy's. With preview:N:K the copy lies by input, and a token reads the share K of it that matters most to it.
    #[arg(long, default_value = "all")]
    logits: LogitsSwitch,
}

impl Stated {
    fn left_out(self) -> Result<LeftOut, clap::Error> {
        let Stated { sparse, inputs, short_rows, logits } = self;
        let refused = |error: moray::Error| clap::Error::raw(clap::error::ErrorKind::ValueValidation, error);
        sparse.map_or(Ok(LeftOut { inputs, short_rows, logits }), |scheme| scheme.parts().map_err(refused))
    }
}

impl Args for LeftOut {
    fn augment_args(command: Command) -> Command {
        Stated::augment_args(command)
    }

    fn augment_args_for_update(command: Command) -> Command {
        Stated::augment_args_for_update(command)
    }
}

impl FromArgMatches for LeftOut {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        Stated::from_arg_matches(matches)?.left_out()
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use moray::llama::{LogitRows, Sequence};
    use moray::policy::Projection;

    use super::*;
    use crate::cli::Way;
    use crate::dtype::DType;
    use crate::fixture::Fixture;
    use crate::load::SHORT_ROW;

    #[test]
    fn a_scheme_is_the_parts_that_it_stands_for() {
        for (scheme, parts) in [
            ("auto", "--inputs teal:0.75 --short-rows whole --logits preview:64:0.7"),
            ("auto:0.6", "--inputs teal:0.6 --short-rows whole --logits preview:64:0.7"),
            ("auto:1", "--inputs teal:1 --short-rows whole --logits preview:64:0.7"),
        ] {
            let stated: Way = format!("--weights as-file --sparse {scheme}").parse().unwrap();
            let written: Way = format!("--weights as-file {parts}").parse().unwrap();
            assert_eq!(stated.switches.left_out, written.switches.left_out, "{scheme}");
        }
        assert_eq!("--weights dense".parse::<Way>().unwrap().switches.left_out, LeftOut::NOTHING);
        assert_eq!("auto:0.5".parse::<Scheme>().unwrap().to_string(), "auto:0.5");
    }

    #[test]
    fn what_a_scheme_stands_for_cannot_be_stated_besides() {
        for besides in [
            "--inputs teal:0.7",
            "--inputs all",
            "--short-rows sparse",
            "--logits all",
            "--logits preview:2",
            "--mlp topk:0.5",
        ] {
            let refusal = format!("--sparse auto {besides}").parse::<Way>().unwrap_err();
            let name = besides.split(' ').next().unwrap();
            assert!(refusal.contains("--sparse") && refusal.contains(name), "{refusal}");
        }
        for text in ["", "auto:", "auto:0", "auto:1.5", "auto:nan", "automatic", "teal:0.7"] {
            assert!(text.parse::<Scheme>().unwrap_err().contains("auto:K"), "{text}");
        }
    }
    #[test]
    fn inputs_are_selected_of_matrices_of_long_rows_alone_where_short_ones_are_whole() {
        let folder = tempfile::tempdir().unwrap();
        let model = folder.path().join("model.gguf");
        let fixture = Fixture { d_ff: SHORT_ROW, dtype: DType::Q4_0, ..Fixture::default() };
        fixture.write_gguf(&model).unwrap();
        let outputs = |projection| match projection {
            Projection::Qkv => (fixture.n_q_heads + 2 * fixture.n_kv_heads) * fixture.head_dim,
            Projection::GateUp => 2 * fixture.d_ff,
            Projection::Output | Projection::Down => fixture.hidden,
        };
        for (weights, bits) in [("as-file", 4), ("per-channel", 4), ("dense", 16), ("f32", 32)] {
            for (short, least) in [("sparse", 0), ("whole", SHORT_ROW)] {
                let way: Way = format!("--weights {weights} --inputs teal:0.5 --short-rows {short}").parse().unwrap();
                let switches = way.on(&model).switches;
                let run = switches.load().unwrap();
                let mut session = run.model.session(&run.cpu, switches.settings(&run, 1, 64).unwrap()).unwrap();
                let tokens: Vec<u32> = (0..64).map(|t| 3 + t * 5 % 250).collect();
                run.model
                    .forward(&run.cpu, &mut session, &[Sequence { slot: 0, tokens: &tokens }], LogitRows::Last)
                    .unwrap();
                let usage = session.policies().usage();
                for (layer, projection) in
                    (0..2).flat_map(|layer| Projection::ALL.map(|projection| (layer, projection)))
                {
                    let is_long = outputs(projection) * bits / 8 >= least;
                    let matrix = run.model.layers()[layer].matrix(projection).unwrap();
                    assert_eq!(matrix.is_by_input(), is_long, "{weights}, {short}, {projection:?}");
                    let kept = usage.kept(Site::Inputs(projection), layer);
                    assert_eq!(kept < 0.9, is_long, "{weights}, {short}, {projection:?}: {kept}");
                }
            }
        }
    }
}
