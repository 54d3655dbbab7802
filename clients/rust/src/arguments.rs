use crate::Tls;

/// What both programs are started with: words, and the files of TLS.
#[derive(Default)]
pub struct Arguments {
    pub words: Vec<String>,
    pub tls: Tls,
}

impl Arguments {
    pub fn parse(given: impl Iterator<Item = String>) -> Self {
        let mut found = Self::default();
        let mut rest = given.skip(1);
        while let Some(word) = rest.next() {
            match word.as_str() {
                "--ca" => found.tls.ca = rest.next(),
                "--cert" => found.tls.certificate = rest.next(),
                "--key" => found.tls.key = rest.next(),
                _ => found.words.push(word),
            }
        }
        found
    }
}
