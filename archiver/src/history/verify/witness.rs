//! What is known of a chain from outside the archive: digests that somebody noted, and the audit database.

use std::collections::BTreeMap;

use super::Report;
use super::chain::Chain;
use super::finding::Code;
use crate::audit_log::AuditLog;
use crate::error::{Error, Result};
use crate::stream_id::StreamId;

/// The digest of a manifest that was the newest once, and was noted elsewhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Noted {
    /// The stream whose it was; `None`: not said.
    pub stream: Option<StreamId>,
    /// In hex.
    pub digest: String,
}

impl Noted {
    /// Reads `[<source>[/<partition>]=]<64 hex digits>`. Fails as invalid.
    pub fn parse(text: &str) -> Result<Noted> {
        let (stream, digest) = match text.split_once('=') {
            Some((stream, digest)) => (Some(StreamId::parse(stream)), digest),
            None => (None, text),
        };
        let digest = digest.to_ascii_lowercase();
        let is_digest = digest.len() == 64 && digest.bytes().all(|b| b.is_ascii_hexdigit());
        match stream {
            Some(None) => None,
            Some(Some(stream)) => Some(Noted { stream: Some(stream), digest }),
            None => Some(Noted { stream: None, digest }),
        }
        .filter(|_| is_digest)
        .ok_or_else(|| {
            Error::invalid(format!("this is not a noted digest: {text}"))
                .hint("give it as verify printed it: payments=<64 hex digits>, or the digits alone")
        })
    }
}

/// Each noted digest must be that of a manifest in its chain: then nothing up to there was changed or taken away since.
pub(super) fn check_noted(noted: &[Noted], chains: &[Chain], report: &mut Report) -> Result<()> {
    for Noted { stream, digest } in noted {
        let (held, file) = match stream {
            None => (chains.iter().any(|chain| chain.has(digest)), report.archive.clone()),
            Some(stream) => {
                // A stream that was removed as a whole is not there to be looked into.
                let chain = chains.iter().find(|chain| chain.stream == *stream);
                (chain.is_some_and(|chain| chain.has(digest)), stream.to_string())
            }
        };
        if !held {
            let reason = format!(
                "no manifest has the digest that was noted: the chain was rewritten, or its end was taken away digest={digest}"
            );
            report.find(Code::ChainRewritten, &file, None, reason);
        }
    }
    Ok(())
}

/// What the audit database said about one stream before the archive was read: what is trimmed meanwhile is sealed by then.
#[derive(Debug, Clone)]
pub(super) struct Hot {
    first_seq: Option<i64>,
    next_seq: Option<i64>,
    sealed: Option<(i64, String)>,
}

/// Reads what the audit database says of all streams, or of one source's.
pub(super) async fn read_log(
    log: Option<&AuditLog>,
    source: Option<&str>,
) -> Result<BTreeMap<StreamId, Hot>> {
    let mut hot = BTreeMap::new();
    let Some(log) = log else { return Ok(hot) };
    let streams = log.streams().await?;
    for stream in streams.into_iter().filter(|stream| source.is_none_or(|s| s == stream.source)) {
        let sealed = log.sealed(&stream).await?;
        let first_seq = log.first_seq(&stream).await?;
        let next_seq = log.checkpoint(&stream).await?.map(|c| c.next_seq);
        hot.insert(stream, Hot { first_seq, next_seq, sealed });
    }
    Ok(hot)
}

/// The log must go on where the archive ends, or before, and the archive must have been sealed as the log noted.
pub(super) async fn compare_log(log: &AuditLog, chain: &Chain, hot: &Hot, report: &mut Report) -> Result<()> {
    let (file, end_seq) = (chain.stream.to_string(), chain.end_seq);
    match &hot.sealed {
        Some((sealed, _)) if *sealed > end_seq => {
            let reason = format!(
                "the newest manifests were removed: sealed up to seq={sealed}, there up to seq={end_seq}"
            );
            report.find(Code::ChainShortened, &file, None, reason);
        }
        Some((sealed, digest)) if !chain.has(digest) => {
            let reason = format!(
                "the chain was rewritten: it has not the manifest that the audit database noted seq={sealed} digest={digest}"
            );
            report.find(Code::ChainRewritten, &file, None, reason);
        }
        _ => {}
    }
    let Some(next_seq) = hot.next_seq else { return Ok(()) };
    if next_seq < end_seq {
        // What was captured and sealed since the log was read is in its checkpoint by now.
        let next_seq = log.checkpoint(&chain.stream).await?.map_or(1, |c| c.next_seq);
        if next_seq < end_seq {
            let reason =
                format!("the checkpoint is behind the archive next_seq={next_seq} end_seq={end_seq}");
            report.find(Code::LogBehind, &file, None, reason);
        }
    }
    let first_seq = hot.first_seq.unwrap_or(next_seq);
    if first_seq > end_seq {
        let reason =
            format!("records are in neither tier, or a manifest was removed seq={end_seq}..{first_seq}");
        report.find(Code::LogGap, &file, None, reason);
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_noted_digest_is_read_as_it_was_printed() {
        let digest = "0f".repeat(32);
        let read = |text: String| Noted::parse(&text);
        let noted = read(format!("payments/3={}", digest.to_uppercase())).unwrap();
        assert_eq!(noted.stream, StreamId::parse("payments/3"));
        assert_eq!(noted.digest, digest);
        assert_eq!(read(digest.clone()).unwrap(), Noted { stream: None, digest: digest.clone() });
        for odd in ["", "payments=", "0f", &digest[1..], &format!("a/x={digest}"), &format!("{digest}0")] {
            assert!(Noted::parse(odd).is_err(), "{odd}");
        }
    }
}
