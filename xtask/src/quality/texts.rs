//! The texts that calibrate and that are scored.

use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};

use super::SCORED_TOKENS;
use crate::{fetch, root};

/// Characters of a piece of an article at least, in whole paragraphs; what is scored is the first piece of each.
const CHARACTERS_PER_PIECE: usize = 1500;

/// What calibrates.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Calibration {
    /// Four fifths of the news corpus.
    News,
    /// The same news in turn with Wikipedia articles that are not scored.
    Mixed,
}

impl Calibration {
    /// Its name in the table and in files.
    pub fn name(self) -> &'static str {
        match self {
            Calibration::News => "news",
            Calibration::Mixed => "mixed",
        }
    }
}

/// Where the texts are.
pub struct Texts {
    /// Four fifths of the news corpus.
    calibration: PathBuf,
    /// The same, each piece followed by the beginning of a Wikipedia article.
    mixed: PathBuf,
    /// The rest of the news.
    pub news: PathBuf,
    /// The beginnings of Wikipedia articles, other ones than those that calibrate.
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
        let whole = fs::read_to_string(whole)?;
        let articles: Vec<Vec<String>> = whole.split("\n\n").map(pieces).collect();
        let (scored, spare) = articles.split_at(articles.len() / 2);
        let texts = [
            ("calibration.txt", calibration.join("\n") + "\n"),
            ("mixed.txt", in_turn(calibration, spare)),
            ("evaluation.txt", news.join("\n") + "\n"),
            ("encyclopedia.txt", scored.iter().filter_map(|pieces| pieces.first()).cloned().collect()),
        ];
        let mut hasher = DefaultHasher::new();
        (&texts[2..], SCORED_TOKENS).hash(&mut hasher);
        let scores = work.join(format!("scores-{:016x}", hasher.finish()));
        fs::create_dir_all(&scores)?;
        let [calibration, mixed, news, encyclopedia] = texts.each_ref().map(|(name, _)| work.join(name));
        for (name, text) in texts {
            fs::write(work.join(name), text)?;
        }
        Ok(Texts { calibration, mixed, news, encyclopedia, scores })
    }

    /// Where a calibration's text is.
    pub fn calibration(&self, calibration: Calibration) -> &Path {
        match calibration {
            Calibration::News => &self.calibration,
            Calibration::Mixed => &self.mixed,
        }
    }
}

/// An article's paragraphs, as many together as make a piece; each piece ends in an empty line.
fn pieces(article: &str) -> Vec<String> {
    let mut pieces = Vec::new();
    let mut piece = String::new();
    for line in article.lines() {
        piece.push_str(line);
        piece.push('\n');
        if piece.len() >= CHARACTERS_PER_PIECE {
            pieces.push(std::mem::take(&mut piece) + "\n");
        }
    }
    if !piece.is_empty() {
        pieces.push(piece + "\n");
    }
    pieces
}

/// A piece of news, the first piece of an article, a piece of news, the first of the next article, and so on; after all first
/// pieces the second ones, until the news or the articles end.
fn in_turn(news: &[&str], articles: &[Vec<String>]) -> String {
    let longest = articles.iter().map(Vec::len).max().unwrap_or(0);
    let pieces = (0..longest).flat_map(|nth| articles.iter().filter_map(move |pieces| pieces.get(nth)));
    news.iter().zip(pieces).flat_map(|(news, piece)| [news, "\n\n", piece]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_whole_paragraphs() {
        let long = "x".repeat(CHARACTERS_PER_PIECE);
        assert_eq!(pieces(&format!("One\n{long}\nlast\n")), [format!("One\n{long}\n\n"), "last\n\n".into()]);
        assert_eq!(pieces("Two\nshort"), ["Two\nshort\n\n"]);
    }

    #[test]
    fn news_and_articles_take_turns_until_one_ends() {
        let articles = [vec!["A1\n\n".into(), "A2\n\n".into()], vec!["B\n\n".into()]];
        assert_eq!(in_turn(&["one", "two"], &articles), "one\n\nA1\n\ntwo\n\nB\n\n");
        assert_eq!(in_turn(&["a", "b", "c", "d"], &articles), "a\n\nA1\n\nb\n\nB\n\nc\n\nA2\n\n");
    }
}
