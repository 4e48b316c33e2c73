//! Of what prompts are made: the server's own ids of a piece of text.
//!
//! Prompts are drawn from it at random, so that no two are alike and no cache helps, but for the prefix that they are
//! to share.

use std::fmt::Write as _;
use std::io::{Read, Write as _};
use std::net::{SocketAddr, TcpStream};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::answer::Answer;
use super::options::Workload;

/// Words that every vocabulary has.
const WORDS: &str = "once upon a time there was a little fox who lived near the river with a bear and they went to the \
    park one day to play with a big dog that was very happy to see them";

/// Ids and words.
#[derive(Debug, Clone)]
pub struct PromptVocabulary {
    ids: Vec<u32>,
    words: Vec<&'static str>,
}

impl PromptVocabulary {
    /// Asks the server at `address` for the ids of the words.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn ask(address: SocketAddr, key: Option<&str>) -> Result<PromptVocabulary> {
        let body = json!({ "content": WORDS, "add_special": false }).to_string();
        let key = key.map_or(String::new(), |key| {
            format!("Authorization: Bearer {key}\r\n")
        });
        let mut stream = TcpStream::connect(address)
            .with_context(|| format!("no server at {address}: start one, or give --serve"))?;
        write!(
            stream,
            "POST /tokenize HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n{key}Content-Length: {}\r\n\r\n{body}",
            body.len()
        )?;
        let mut answer = Answer::new();
        let mut buffer = [0; 4096];
        while !answer.is_complete() {
            let n = stream.read(&mut buffer)?;
            ensure!(n > 0, "/tokenize: the connection ended");
            answer.feed(&buffer[..n])?;
        }
        if let Some(trouble) = answer.trouble() {
            anyhow::bail!("/tokenize: {trouble}");
        }
        let value: Value = serde_json::from_slice(&answer.body)?;
        let ids: Vec<u32> = serde_json::from_value(value["tokens"].clone())?;
        ensure!(!ids.is_empty(), "/tokenize: no tokens");
        Ok(PromptVocabulary {
            ids,
            words: WORDS.split_whitespace().collect(),
        })
    }

    /// Appends a prompt as JSON; `random` gives numbers below 1.
    pub fn write_prompt(
        &self,
        workload: &Workload,
        mut random: impl FnMut() -> f64,
        out: &mut String,
    ) {
        let (n, n_shared) = (workload.prompt, workload.shared_prefix);
        if workload.text {
            let words_of = |tokens: usize| tokens * self.words.len() / self.ids.len();
            out.push('"');
            for index in 0..words_of(n) {
                let place = match index < words_of(n_shared) {
                    true => index % self.words.len(),
                    false => (random() * self.words.len() as f64) as usize,
                };
                let _ = write!(
                    out,
                    "{}{}",
                    if index > 0 { " " } else { "" },
                    self.words[place]
                );
            }
            out.push('"');
            return;
        }
        out.push('[');
        for index in 0..n {
            let place = match index < n_shared {
                true => index % self.ids.len(),
                false => (random() * self.ids.len() as f64) as usize,
            };
            let _ = write!(
                out,
                "{}{}",
                if index > 0 { "," } else { "" },
                self.ids[place]
            );
        }
        out.push(']');
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::options::LoadPlan;

    #[test]
    fn prompts_have_their_length_and_share_what_they_are_to_share() {
        let vocabulary = PromptVocabulary {
            ids: vec![7, 8, 9],
            words: vec!["a", "b", "c"],
        };
        let mut workload = LoadPlan::parse(&[]).unwrap().workload;
        (workload.prompt, workload.shared_prefix) = (5, 2);
        let mut out = String::new();
        vocabulary.write_prompt(&workload, || 0.9, &mut out);
        assert_eq!(out, "[7,8,9,9,9]");
        workload.text = true;
        out.clear();
        vocabulary.write_prompt(&workload, || 0.0, &mut out);
        assert_eq!(out, "\"a b a a a\"");
    }
}
