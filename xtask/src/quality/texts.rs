//! The texts that calibrate and that are scored.

use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};

use super::SCORED_TOKENS;
use crate::{fetch, root};

/// Characters of each article that are scored at least, in whole paragraphs.
const CHARACTERS_PER_ARTICLE: usize = 1500;

/// Where the texts are.
pub struct Texts {
    /// Four fifths of the news corpus.
    pub calibration: PathBuf,
    /// The rest of it.
    pub news: PathBuf,
    /// The beginnings of Wikipedia articles.
    pub encyclopedia: PathBuf,
    /// Where scores on these texts are kept, a directory of their own for each version of them.
    pub scores: PathBuf,
}

impl Texts {
    /// Fetches what is missing and writes all three into `work`.
    pub fn make(work: &Path) -> Result<Texts, Box<dyn std::error::Error>> {
        let models = root().join("models");
        let text = fs::read_to_string(models.join("lee_background.cor"))?;
        let lines: Vec<&str> = text.lines().collect();
        let (calibration, news) = lines.split_at(lines.len() * 4 / 5);
        let whole = work.join("wikipedia.txt");
        fetch::wikipedia(&models, &whole)?;
        let texts = [
            ("calibration.txt", calibration.join("\n") + "\n"),
            ("evaluation.txt", news.join("\n") + "\n"),
            ("encyclopedia.txt", beginnings(&fs::read_to_string(whole)?)),
        ];
        let [calibration, news, encyclopedia] = texts.each_ref().map(|(name, _)| work.join(name));
        let mut hasher = DefaultHasher::new();
        (&texts, SCORED_TOKENS).hash(&mut hasher);
        let scores = work.join(format!("scores-{:016x}", hasher.finish()));
        fs::create_dir_all(&scores)?;
        for (name, text) in texts {
            fs::write(work.join(name), text)?;
        }
        Ok(Texts { calibration, news, encyclopedia, scores })
    }
}

/// The first paragraphs of every article; articles are apart by an empty line, and their first line is a title.
fn beginnings(text: &str) -> String {
    let mut out = String::new();
    for article in text.split("\n\n") {
        let start = out.len();
        for line in article.lines() {
            if out.len() - start >= CHARACTERS_PER_ARTICLE {
                break;
            }
            out.push_str(line);
            out.push('\n');
        }
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn beginnings_take_whole_paragraphs_of_every_article() {
        let long = "x".repeat(CHARACTERS_PER_ARTICLE);
        let text = format!("One\n{long}\nnot this\n\nTwo\nshort\n\n");
        assert_eq!(beginnings(&text), format!("One\n{long}\n\nTwo\nshort\n\n\n"));
    }
}
