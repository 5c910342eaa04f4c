//! Multiple-choice questions against their definition on a tiny model, and the command's errors.

use clap::Parser;
use moray::Cpu;
use moray::llama::{LogitRows, Model, Sequence, Settings};
use moray_lab::Checkpoint;
use moray_lab::activations::ActivationScheme;
use moray_lab::cli::{Cli, run};
use moray_lab::fixture::Fixture;
use moray_lab::load::{Form, LoadOptions, load_cpu};
use moray_lab::weights::WeightScheme;

const ITEMS: [(&str, [&str; 3]); 5] = [
    ("The sky is", ["blue", "a square", "x"]),
    ("One and one make ", ["two", "three of them", "q"]),
    ("What", ["is", "it", "does not say"]),
    ("word word word", ["word", "w", "wordy"]),
    ("Say a number:", ["7", "77777", "seven"]),
];

/// Σ ln p of the tokens after what all choices share with the question, in f64, from one pass over each text.
fn definition(cpu: &Cpu, checkpoint: &Checkpoint, model: &Model<Cpu>, question: &str, choice: &str) -> f64 {
    let tokenizer = checkpoint.tokenizer().unwrap();
    let space = if question.ends_with(' ') { "" } else { " " };
    let encode = |text: &str| -> Vec<u32> {
        let bos = checkpoint.config().window_start();
        bos.into_iter().chain(tokenizer.encode(text, false).unwrap()).collect()
    };
    let (text, prefix) = (encode(&format!("{question}{space}{choice}")), encode(question));
    let shared = text.iter().zip(&prefix).take_while(|(a, b)| a == b).count();
    let settings = Settings { max_tokens: text.len(), max_logits: text.len(), ..Settings::dense(text.len()) };
    let mut session = model.session(cpu, settings).unwrap();
    let logits = model.forward(cpu, &mut session, &[Sequence { slot: 0, tokens: &text }], LogitRows::All).unwrap();
    let rows: Vec<&[f32]> = logits.chunks_exact(model.config().vocab).collect();
    let ln = |row: &[f32], token: u32| {
        f64::from(row[token as usize]) - row.iter().map(|&logit| f64::from(logit).exp()).sum::<f64>().ln()
    };
    (shared..text.len()).map(|at| ln(rows[at - 1], text[at])).sum()
}

fn right(scores: &[f64], answer: usize) -> bool {
    (0..scores.len()).reduce(|a, b| if scores[b] > scores[a] { b } else { a }) == Some(answer)
}

#[test]
fn answers_are_the_choices_that_the_definition_finds_most_likely() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    for (seed, add_bos) in [(1, false), (2, true), (3, true)] {
        let model = path("tiny.gguf");
        Fixture { seed, add_bos, ..Fixture::default() }.write_gguf(model.as_ref()).unwrap();
        let checkpoint = Checkpoint::open(model.as_ref()).unwrap();
        let options =
            LoadOptions { weights: WeightScheme::Dense, activations: ActivationScheme::default(), form: Form::Whole };
        let (cpu, loaded) = (Cpu::detect(), load_cpu(&checkpoint, options, |_, _| ()).unwrap());
        let (mut lines, mut expected) = (String::new(), [0, 0]);
        for (index, (question, choices)) in ITEMS.iter().enumerate() {
            let answer = index % 3;
            let scores = choices.map(|choice| definition(&cpu, &checkpoint, &loaded, question, choice));
            let by_byte: Vec<f64> =
                scores.iter().zip(choices).map(|(score, choice)| score / choice.len() as f64).collect();
            expected[0] += usize::from(right(&scores, answer));
            expected[1] += usize::from(right(&by_byte, answer));
            lines += &serde_json::json!({"question": question, "choices": choices, "answer": answer}).to_string();
            lines += "\n\n";
        }
        std::fs::write(path("items.jsonl"), lines).unwrap();
        let items = path("items.jsonl");
        let arguments = ["moray", "choices", "--model", &model, "--items", &items, "--weights", "dense", "--json"];
        let mut out = Vec::new();
        run(Cli::try_parse_from(arguments).unwrap(), &mut out).unwrap();
        let found: serde_json::Value = serde_json::from_slice(&out).unwrap();
        let count = |key: &str| (found[key].as_f64().unwrap() / 20.0).round() as usize;
        assert_eq!([count("accuracy_percent"), count("normalised_percent")], expected, "seed {seed}");
        assert_eq!(found["items"], 5);
        // a mean of five thirds in f64, in percent
        assert!((found["by_chance_percent"].as_f64().unwrap() - 100.0 / 3.0).abs() < 1e-9);
        // the question is the prompt of what the prompt decides
        let sparse = [&arguments[..8], &["--mlp", "griffin:0.5"]].concat();
        let mut out = Vec::new();
        run(Cli::try_parse_from([&sparse[..6], &sparse[8..]].concat()).unwrap(), &mut out).unwrap();
        assert!(String::from_utf8(out).unwrap().starts_with("5 questions: "));
    }
}

#[test]
fn files_that_hold_no_questions_are_refused_with_the_line() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let (model, items) = (path("tiny.gguf"), path("items.jsonl"));
    Fixture::default().write_gguf(model.as_ref()).unwrap();
    let good = r#"{"question": "a", "choices": ["b", "c"], "answer": 1}"#;
    let cases = [
        ("", "items: expected at least 1, got 0"),
        (&format!("{good}\n{{\"question\": \"a\"}}\n"), "line 2"),
        (r#"{"question": "a", "choices": ["b", "c"], "answer": 2}"#, "an answer below the number of choices, got 2"),
        (r#"{"question": "a", "choices": ["b"], "answer": 0}"#, "at least 2 choices"),
        (r#"{"question": "a", "choices": ["b", ""], "answer": 0}"#, "none of them empty"),
        (r#"{"question": "a", "choices": ["b", "c"], "answer": 0, "hint": "b"}"#, "hint"),
        (
            &format!(r#"{{"question": "{}", "choices": ["b", "c"], "answer": 0}}"#, "a ".repeat(400)),
            "position of a question",
        ),
    ];
    for (text, part) in cases {
        std::fs::write(&items, text).unwrap();
        let cli = Cli::try_parse_from(["moray", "choices", "--model", &model, "--items", &items]).unwrap();
        let refusal = run(cli, &mut Vec::new()).unwrap_err().to_string();
        assert!(refusal.contains(part), "{text}: {refusal}");
    }
}

/// The script's questions are halves of sentences that the text has: the right choice goes on, the others are of the same document.
#[test]
fn questions_that_the_script_makes_of_a_text_are_read_and_right() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../../scripts/choice_items.py");
    let sentence = |document: usize, index: usize| {
        let words = (0..12 + index % 3).map(|word| format!("w{document}x{index}x{word}")).collect::<Vec<_>>();
        format!("A{}.", words.join(" "))
    };
    let document = |number| (0..7).map(|index| sentence(number, index)).collect::<Vec<_>>().join(" ");
    std::fs::write(path("text.txt"), format!("{}\nToo short.\n{}\n", document(0), document(1))).unwrap();
    let make = |arguments: &[&str]| {
        std::process::Command::new("python3").arg(script).args(arguments).output().expect("python3")
    };
    let (text, out, again) = (path("text.txt"), path("items.jsonl"), path("again.jsonl"));
    assert!(make(&[&text, &out]).status.success() && make(&[&text, &again]).status.success());
    assert_eq!(std::fs::read(&out).unwrap(), std::fs::read(&again).unwrap());
    let items = moray_lab::choices::read(out.as_ref()).unwrap();
    // every sentence but the first of a document
    assert_eq!(items.len(), 12);
    let documents = [document(0), document(1)];
    for item in &items {
        assert_eq!(item.choices.len(), 4);
        let of =
            documents.iter().find(|document| document.contains(&item.question)).expect("a question of one document");
        for (place, choice) in item.choices.iter().enumerate() {
            assert_eq!(of.contains(&format!("{} {choice}", item.question)), place == item.answer, "{item:?}");
            assert!(of.contains(choice.as_str()) && !item.question.contains(choice.as_str()), "{item:?}");
        }
    }
    assert!(make(&[&text, &out, "5", "3"]).status.success());
    assert_eq!(moray_lab::choices::read(out.as_ref()).unwrap().len(), 5);
    std::fs::write(&text, "One sentence alone is no question.\n").unwrap();
    for (arguments, said) in [(vec![&*text, &*out], "got none that fits"), (vec![&*text, &*out, "0"], "at least 1")] {
        let refused = make(&arguments);
        assert!(!refused.status.success() && String::from_utf8_lossy(&refused.stderr).contains(said), "{refused:?}");
    }
}
