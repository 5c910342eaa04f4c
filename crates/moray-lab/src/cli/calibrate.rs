//! `moray calibrate`: what methods are set by, found once and written to a file.

use std::io::Write;
use std::path::PathBuf;

use clap::Args;
use moray::policy::Named;

use super::switches::{self, OUTPUT_TOKENS};
use super::ways::Loaded;
use super::{LogitsSwitch, Way, check_writable, progress_bar, written};
use crate::activations::ActivationScheme;
use crate::calibration::{About, Drafted, ModelIdentity, PREVIEW, TextIdentity, VERSION, is_calibration};
use crate::config::Activation;
use crate::error::{Error, Result};
use crate::study::{Grid, Method};
use crate::weights::WeightScheme;

/// Arguments of `moray calibrate`.
#[derive(Debug, Clone, Args)]
pub struct Arguments {
    /// A .gguf file or a Hugging Face directory.
    #[arg(long, short, allow_hyphen_values = true)]
    pub model: PathBuf,
    /// A UTF-8 text, which should have nothing of what is scored later; a short text of our own by default.
    #[arg(long, allow_hyphen_values = true)]
    pub text: Option<PathBuf>,
    /// Policies of neurons and of inputs, and auto, the scheme of --sparse, as in `moray study`: a name alone is calibrated at each kept share,
    /// one with its argument as it is.
    #[arg(long, value_delimiter = ',', default_value = "auto")]
    pub methods: Vec<Method>,
    /// Kept shares.
    #[arg(long, value_delimiter = ',', default_values_t = [0.9, 0.8, 0.75, 0.7, 0.6, 0.5])]
    pub kept: Vec<f32>,
    /// Policies of heads, each calibrated with the weights in every form that a method needs, and in that of none.
    #[arg(long, value_delimiter = ',', default_value = "all", value_parser = switches::heads)]
    pub heads: Vec<Named>,
    /// How weights are held, as in `moray eval`: a file serves only the ways that it was made with.
    #[arg(long, value_delimiter = ',', default_value = "auto")]
    pub weights: Vec<WeightScheme>,
    /// Scales of int8 inputs, as in `moray eval`.
    #[arg(long, default_value = "token")]
    pub activations: ActivationScheme,
    /// The MLPs' activation, as in `moray eval`; by default the model's own.
    #[arg(long, value_enum)]
    pub activation: Option<Activation>,
    /// Threads; all cores by default.
    #[arg(long)]
    pub threads: Option<usize>,
    /// The file to write, NAME.safetensors.
    #[arg(long, allow_hyphen_values = true)]
    pub out: PathBuf,
}

/// Runs the command.
///
/// # Errors
/// What is wrong with the model, the text, a method or the file.
pub fn run(arguments: &Arguments, out: &mut dyn Write) -> Result<()> {
    if !is_calibration(&arguments.out) {
        let expected = "a name that ends in .safetensors, by which a calibration is told from a text";
        return Err(Error::unsupported(&arguments.out, "file of a calibration", expected, arguments.out.display()));
    }
    if let Some(path) = arguments.text.as_deref().filter(|path| is_calibration(path)) {
        return Err(Error::unsupported(path, "calibration text", "a UTF-8 text", "a file of a calibration"));
    }
    let ways = ways(arguments)?;
    if ways.iter().all(|way| way.policies().all(|policy| policy.found_as().is_none())) {
        let (expected, got) = ("at least one that is calibrated", "none");
        return Err(Error::unsupported(&arguments.model, "methods", expected, got));
    }
    check_writable(&arguments.out)?;
    let loaded = Loaded::new(ways, || ())?;
    let (drafted, text) = drafted(&loaded)?;
    let model = ModelIdentity::of(&loaded.run(&loaded.ways[0]).checkpoint);
    let about = About { version: VERSION, program: env!("CARGO_PKG_VERSION").to_owned(), model, text };
    let bytes = drafted.write(&arguments.out, &about)?;
    let held: Vec<&str> = drafted.held().into_iter().filter(|name| !name.ends_with(PREVIEW)).collect();
    written(writeln!(
        out,
        "{}, {:.1} MB: {} on {}, {} tokens\n{}",
        arguments.out.display(),
        bytes as f64 / 1e6,
        about.model.name,
        about.text.name,
        about.text.tokens,
        held.join("\n")
    ))
}

/// A way to run the model for each cell of a study.
fn ways(arguments: &Arguments) -> Result<Vec<Way>> {
    if let Some(&got) = arguments.kept.iter().find(|kept| !(**kept > 0.0 && **kept <= 1.0)) {
        return Err(Error::Kernel(moray::Error::Value { what: "kept", expected: "a number in (0, 1]", got }));
    }
    // the weights as they are held where no method asks for another form, for heads
    let whole =
        "dense".parse().map_err(|error: String| Error::malformed(&arguments.model, "methods", "dense", error))?;
    let grid = Grid {
        weights: arguments.weights.iter().map(ToString::to_string).collect(),
        methods: arguments.methods.iter().cloned().chain([whole]).collect(),
        kept: arguments.kept.clone(),
        heads: arguments.heads.clone(),
        kv: vec!["write-all".to_owned()],
        logits: vec![LogitsSwitch::default()],
    };
    let way = |line: String| {
        let way: Way = line.parse().map_err(|error| Error::malformed(&arguments.model, &line, "switches", error))?;
        let mut way = way.on(&arguments.model);
        way.switches.activations = arguments.activations;
        way.switches.activation = arguments.activation;
        way.switches.threads = arguments.threads;
        way.switches.calibration.clone_from(&arguments.text);
        // what a preview is set by is found besides, for every way
        way.switches.left_out.logits = LogitsSwitch::default();
        Ok(way)
    };
    grid.cells().into_iter().map(|cell| way(cell.line)).collect()
}

/// Finds what all ways need, each thing once.
fn drafted(loaded: &Loaded) -> Result<(Drafted, TextIdentity)> {
    let (mut drafted, mut looked_at) = (Drafted::default(), OUTPUT_TOKENS);
    let bar = progress_bar(loaded.ways.len(), "calibrating");
    for way in &loaded.ways {
        let (switches, run) = (&way.switches, loaded.run(way));
        let held = switches.held(&run.checkpoint);
        if !drafted.holds(&held, PREVIEW) {
            drafted.add(&held, PREVIEW, &switches.find_preview(run)?);
        }
        for policy in way.policies() {
            let Some(name) = policy.found_as() else { continue };
            if !drafted.holds(&held, &name) {
                looked_at = looked_at.max(policy.calibration_tokens());
                let found = switches.find(run, policy)?;
                // what keeps everything may need nothing, where another share does
                if found.arrays().next().is_some() {
                    drafted.add(&held, &name, &found);
                }
            }
        }
        bar.inc(1);
    }
    bar.finish_and_clear();
    let first = &loaded.ways[0];
    let (path, text) = first.switches.calibration_text()?;
    let name = path.map_or("a text of its own".into(), |path| path.file_name().unwrap_or_default().to_string_lossy());
    let tokens = first.switches.calibration_tokens(loaded.run(first), looked_at)?.len();
    Ok((drafted, TextIdentity::new(&name, &text, tokens)))
}
