//! `moray calibrate`: what is read of its file is what is found in its text, and what is not of the model at hand is refused.

use clap::Parser;
use moray_lab::cli::{Cli, run};
use moray_lab::fixture::Fixture;

/// A model whose MLPs have groups of 64.
fn tiny() -> Fixture {
    Fixture { d_ff: 128, ..Fixture::default() }
}

struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        let folder = Folder(tempfile::tempdir().unwrap());
        tiny().write_gguf(&folder.0.path().join("tiny.gguf")).unwrap();
        for (name, step) in [("text.txt", 31), ("calibration.txt", 17)] {
            let text: String = (0..400).map(|word| format!("word {} and ", word * step % 97)).collect();
            std::fs::write(folder.0.path().join(name), text).unwrap();
        }
        folder
    }

    fn path(&self, name: &str) -> String {
        self.0.path().join(name).to_str().unwrap().to_owned()
    }

    fn run(&self, line: &str) -> Result<String, String> {
        let words = line.split(' ').map(|word| match word.strip_prefix('@') {
            Some(name) => self.path(name),
            None => word.to_owned(),
        });
        let cli =
            Cli::try_parse_from(std::iter::once("moray".to_owned()).chain(words)).map_err(|error| error.to_string())?;
        let mut out = Vec::new();
        run(cli, &mut out).map_err(|error| error.to_string())?;
        Ok(String::from_utf8(out).unwrap())
    }

    fn calibrate(&self, more: &str) -> Result<String, String> {
        self.run(&format!("calibrate --model @tiny.gguf --text @calibration.txt --out @c.safetensors {more}"))
    }

    /// What `moray eval` finds with a calibration, without its times.
    fn evaluation(&self, switches: &str, calibration: &str) -> Result<serde_json::Value, String> {
        let text = self.run(&format!(
            "eval --model @tiny.gguf --text @text.txt --context 64 --tokens 192 --json --calibration @{calibration} {switches}"
        ))?;
        let mut found: serde_json::Value = serde_json::from_str(&text).unwrap();
        found.as_object_mut().unwrap().remove("seconds");
        Ok(found)
    }
}

#[test]
fn every_policy_of_a_file_is_the_one_of_its_text_bit_for_bit() {
    let folder = Folder::new();
    let said = folder
        .calibrate(
            "--methods cats,teal,wina,wina-threshold,static,moefication,cett:0.2,dejavu:0.5,dejavu:0.5:1,dejavu-trained:0.5,auto --kept 0.75,0.5 \
             --heads all,static:0.5,predictor:0.5 --weights dense,g32",
        )
        .unwrap();
    assert!(said.contains("dense/token/by-input/inputs/teal:0.75") && said.contains("128 tokens"), "{said}");
    assert!(!folder.0.path().join("c.safetensors.partial").exists());
    for weights in ["dense", "g32"] {
        for switches in [
            "--mlp cats:0.5",
            "--inputs teal:0.75",
            "--inputs wina:0.3",
            "--inputs wina-threshold:0.5",
            "--mlp static:0.4",
            "--mlp moefication:0.6",
            "--mlp cett:0.2",
            "--mlp dejavu:0.5",
            "--mlp dejavu:0.5:1",
            "--mlp dejavu-trained:0.5",
            "--heads static:0.5",
            "--heads predictor:0.5",
            "--mlp cats:0.5 --heads predictor:0.5 --kv hole",
            "--mlp cats:0.75 --heads static:0.25",
            "--inputs teal:0.5 --heads static:0.5",
            "--inputs teal:0.5 --logits preview:2",
            "--logits preview:2",
            // what keeps everything needs no text
            "--mlp cats:1",
            "--inputs teal:1",
        ] {
            let switches = format!("--weights {weights} {switches}");
            let [of_text, of_file] = ["calibration.txt", "c.safetensors"]
                .map(|calibration| folder.evaluation(&switches, calibration).unwrap());
            assert_eq!(of_file, of_text, "{switches}");
        }
    }
    let generated = |calibration: &str| {
        let line =
            "generate --model @tiny.gguf --prompt word -n 20 --ignore-eos --json --weights g32 --inputs teal:0.5";
        let said = folder.run(&format!("{line} --calibration @{calibration}")).unwrap();
        serde_json::from_str::<serde_json::Value>(&said).unwrap()["text"].clone()
    };
    assert_eq!(generated("c.safetensors"), generated("calibration.txt"));
    let study = |calibration: &str| {
        let line = "study --model @tiny.gguf --text @text.txt --context 64 --tokens 128 --methods cats,teal --logits all,preview:2 --kept 0.75,0.5 --repeats 0";
        folder.run(&format!("{line} --out @study-{calibration} --calibration @{calibration}")).unwrap()
    };
    assert_eq!(study("c.safetensors"), study("calibration.txt"));
    let bench = "bench --model @tiny.gguf --text @text.txt --positions 8 -n 2 --repeats 1 --prompt-tokens 0 --json";
    let bench = |row: &str| {
        let line = format!("{bench} --calibration @c.safetensors --row");
        let words = ["moray".to_owned()].into_iter().chain(line.split(' ').map(|word| match word.strip_prefix('@') {
            Some(name) => folder.path(name),
            None => word.to_owned(),
        }));
        let cli = Cli::try_parse_from(words.chain([row.to_owned()])).unwrap();
        run(cli, &mut Vec::new()).map_err(|error| error.to_string())
    };
    bench("--weights dense --inputs teal:0.5").unwrap();
    let refusal = bench("--weights dense --inputs teal:0.6").unwrap_err();
    assert!(refusal.contains("dense/token/by-input/inputs/teal:0.6"), "{refusal}");
    let refusal = folder
        .run("demo --model @tiny.gguf --text @text.txt --context 64 -n 2 --calibration @c.safetensors")
        .unwrap_err();
    assert!(refusal.contains("c.safetensors: unsupported policy"), "{refusal}");
}

#[test]
fn a_file_of_another_model_way_version_or_method_is_refused_in_words() {
    let folder = Folder::new();
    folder.calibrate("--methods cats,dejavu --kept 0.5 --weights dense").unwrap();
    let eval = |switches: &str| folder.evaluation(switches, "c.safetensors").unwrap_err();
    let refused = |refusal: String, parts: &[&str]| {
        assert!(parts.iter().all(|part| refusal.contains(part)), "{parts:?}: {refusal}");
    };
    refused(eval("--weights dense --mlp cats:0.6"), &["neurons/cats:0.6", "dense/token/by-neuron/neurons/cats:0.5"]);
    refused(eval("--weights g32 --mlp cats:0.5"), &["policy", "g32/token/by-neuron/neurons/cats:0.5", "dense/token"]);
    refused(eval("--weights dense --inputs teal:0.5"), &["policy", "inputs/teal:0.5"]);
    refused(
        eval("--weights dense --mlp cats:0.5 --activation relu"),
        &["activation of the model: expected silu", "got relu"],
    );
    for (fixture, parts) in [
        (Fixture::default(), ["shape of the model", "with 128 neurons", "with 96 neurons"]),
        (Fixture { n_layers: 3, ..tiny() }, ["shape of the model", "2 layers", "3 layers"]),
        (Fixture { seed: 2, ..tiny() }, ["weights of the model", "expected", "tiny.gguf"]),
    ] {
        fixture.write_gguf(&folder.0.path().join("tiny.gguf")).unwrap();
        refused(eval("--weights dense --mlp cats:0.5"), &parts);
    }
    tiny().write_gguf(&folder.0.path().join("tiny.gguf")).unwrap();

    let path = folder.0.path().join("c.safetensors");
    let whole = std::fs::read(&path).unwrap();
    let with = |from: &str, to: &str| {
        // the header's length stays
        assert_eq!(from.len(), to.len());
        let at = whole.windows(from.len()).position(|window| window == from.as_bytes()).unwrap();
        let mut changed = whole.clone();
        changed[at..at + to.len()].copy_from_slice(to.as_bytes());
        std::fs::write(&path, changed).unwrap();
        eval("--weights dense --mlp cats:0.5")
    };
    refused(with("version\\\":1", "version\\\":2"), &["version of the calibration: expected 1, got 2"]);
    refused(with("moray.calibration", "moray.calibratiom"), &["metadata", "as moray calibrate writes it"]);
    refused(with("\\\"text\\\":", "\\\"tixt\\\":"), &["about", "the description of a calibration"]);
    refused(with("cats:0.5/thresholds", "cats:0.5/thresholdz"), &["thresholds [2]"]);
    for len in [0, 4, 7, 100, whole.len() / 2, whole.len() - 1] {
        std::fs::write(&path, &whole[..len]).unwrap();
        let refusal = eval("--weights dense --mlp cats:0.5");
        assert!(refusal.contains("c.safetensors"), "{len}: {refusal}");
    }
    let number = |name: &str, value: f32| {
        let header = u64::from_le_bytes(whole[..8].try_into().unwrap()) as usize;
        let json: serde_json::Value = serde_json::from_slice(&whole[8..8 + header]).unwrap();
        let start = json[name]["data_offsets"][0].as_u64().unwrap() as usize + 8 + header;
        let mut changed = whole.clone();
        changed[start..start + 4].copy_from_slice(&value.to_le_bytes());
        std::fs::write(&path, changed).unwrap();
        eval(if name.contains("cats") { "--weights dense --mlp cats:0.5" } else { "--weights dense --mlp dejavu:0.5" })
    };
    let thresholds = "dense/token/by-neuron/neurons/cats:0.5/thresholds";
    refused(number(thresholds, f32::NAN), &[thresholds, "finite numbers", "NaN"]);
    refused(number(thresholds, -1.0), &["threshold: expected a finite number of at least 0, got -1"]);
    refused(number(thresholds, 1e6), &["threshold", "of which it keeps nothing", "1000000"]);
    refused(number("dense/token/by-neuron/neurons/dejavu:0.5/bias", f32::INFINITY), &["finite numbers", "inf"]);
    std::fs::write(&path, &whole).unwrap();
    folder.evaluation("--weights dense --mlp cats:0.5", "c.safetensors").unwrap();
}

#[test]
fn what_cannot_be_calibrated_is_refused_in_words() {
    let folder = Folder::new();
    std::fs::write(folder.0.path().join("short.txt"), "word 1 and word 2").unwrap();
    std::fs::write(folder.0.path().join("empty.txt"), "").unwrap();
    for (line, parts) in [
        ("--text @short.txt --methods cats --out @c.safetensors", ["short.txt", "at least 64 tokens"]),
        ("--text @empty.txt --methods cats --out @c.safetensors", ["empty.txt", "an empty file"]),
        ("--methods topk,griffin --out @c.safetensors", ["methods", "at least one that is calibrated"]),
        ("--methods cats:0.00001 --text @calibration.txt --out @c.safetensors", ["threshold", "keeps nothing"]),
        ("--methods cats --kept 1.5 --out @c.safetensors", ["kept", "a number in (0, 1]"]),
        ("--methods tope --out @c.safetensors", ["tope", "cats:K"]),
        ("--methods cats --out @c.bin", ["c.bin", "ends in .safetensors"]),
        ("--methods cats --text @c.safetensors --out @d.safetensors", ["calibration text", "a UTF-8 text"]),
    ] {
        let refusal = folder.run(&format!("calibrate --model @tiny.gguf {line}")).unwrap_err();
        assert!(parts.iter().all(|part| refusal.contains(part)), "{line}: {refusal}");
    }
    let refusal = folder.evaluation("--mlp cats:0.5", "short.txt").unwrap_err();
    assert!(refusal.contains("short.txt: calibration text: expected at least 64 tokens"), "{refusal}");
    assert!(!folder.0.path().join("c.safetensors").exists());
}
