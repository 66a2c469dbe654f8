//! Verifies a stream's archive in the background, beside its capture: everything once in `verify_every`, one segment at a time in
//! the whole process, spread over the time. What is whose turn follows from the clock alone, so nothing is kept but the findings.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bson::DateTime;
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, warn};

use super::Service;
use super::members::Seat;
use crate::archive::manifest::Manifest;
use crate::audit_log::{FoundWrong, Verified};
use crate::error::{Error, Result};
use crate::history::verify::{Code, Finding, Level, Part, check_segment, look_through, moment};
use crate::stream_id::StreamId;

/// Into how many turns the time is divided. In each the manifests are read, and the segments of one part.
const TURNS: u32 = 30;
/// How long the first turn waits, so that it is not in the way of what a start has to catch up with.
const QUIET_START: Duration = Duration::from_secs(60);
/// How long after a fault it is tried again.
const RETRY: Duration = Duration::from_secs(60);
/// Findings that are noted beside the lease at most; a damaged archive has no end of them.
const MOST_NOTED: usize = 20;

impl Service {
    /// Verifies until stopped. Its faults are its own: capture and archive go on.
    pub(super) async fn verify_loop(&self, seat: &Seat, stop: &CancellationToken) {
        let Some(time) = self.config.archive.verify_every else { return };
        let turn = time / TURNS;
        let verifying = async {
            tokio::time::sleep(turn.min(QUIET_START)).await;
            loop {
                let Err(ended) = self.verify_turns(seat, turn).await;
                warn!(source = %seat.stream, error = ended.explain(), "the archive can't be verified now; trying again");
                tokio::time::sleep(turn.min(RETRY)).await;
            }
        };
        let knowing = async {
            match self.log.verified(&seat.stream).await {
                Ok(verified) => seat.tally.found(verified.map_or(0, |verified| verified.found)),
                Err(error) => {
                    debug!(source = %seat.stream, error = error.explain(), "what was verified is unknown")
                }
            }
            verifying.await;
        };
        tokio::select! {
            () = knowing => {}
            () = stop.cancelled() => {}
        }
    }

    async fn verify_turns(&self, seat: &Seat, turn: Duration) -> Result<std::convert::Infallible> {
        let stream = &seat.stream;
        let known = self.log.verified(stream).await?;
        let mut standing = Standing::of(known);
        let mut number = turn_at(SystemTime::now(), turn);
        loop {
            let part = Part::at(number, TURNS);
            let due = self.look(seat, part, &mut standing).await?;
            for (at, manifest) in in_time(stream, part, due) {
                wait_for(number, at, turn).await;
                let one_at_a_time = self.verifying.acquire().await;
                let _permit = one_at_a_time.map_err(|e| Error::internal("verifying has ended").because(e))?;
                let checked = check_segment(&self.archive, &manifest, Level::Full, None).await?;
                seat.tally.verified();
                if standing.replace(&manifest.segment, checked.findings, stream) {
                    self.note(seat, &standing).await?;
                }
            }
            number += 1;
            wait_for(number, 0.0, turn).await;
            // Whoever reads more slowly than the time allows reads everything all the same; only who slept begins anew.
            let now = turn_at(SystemTime::now(), turn);
            if now > number + u64::from(TURNS) {
                number = now;
            }
        }
    }

    /// Looks through everything but the segments' files, and gives the segments whose turn it is, or against which something stands.
    async fn look(&self, seat: &Seat, part: Part, standing: &mut Standing) -> Result<Vec<Arc<Manifest>>> {
        let one_at_a_time = self.verifying.acquire().await;
        let _permit = one_at_a_time.map_err(|e| Error::internal("verifying has ended").because(e))?;
        let wanted = |m: &Manifest| {
            part.holds(&seat.stream, m.first_seq) || standing.contents.contains_key(&m.segment)
        };
        let (report, due) = look_through(&self.archive, &self.log, &seat.stream, wanted).await?;
        // What is sealed no more, or not as it was, stands there as such.
        standing.contents.retain(|file, _| due.iter().any(|m| m.segment == *file));
        tell(&report.findings, &seat.stream);
        standing.structure = report.findings;
        standing.at = DateTime::now();
        self.note(seat, standing).await?;
        Ok(due)
    }

    async fn note(&self, seat: &Seat, standing: &Standing) -> Result<()> {
        let verified = standing.noted();
        seat.tally.found(verified.found);
        self.log.note_verified(&seat.stream, &verified).await
    }
}

/// What stands against a stream's archive.
struct Standing {
    at: DateTime,
    /// What was found without reading segments; found again in every turn.
    structure: Vec<Finding>,
    /// What was found in segments; stands until the segment is verified again.
    contents: BTreeMap<String, Vec<Finding>>,
}

impl Standing {
    /// What somebody noted. Of findings in segments the first are enough: all of such a segment is found again in the next turn.
    fn of(noted: Option<Verified>) -> Standing {
        let at = noted.as_ref().map_or_else(DateTime::now, |noted| noted.at);
        let mut contents: BTreeMap<String, Vec<Finding>> = BTreeMap::new();
        for FoundWrong { code, file, seq, reason } in noted.into_iter().flat_map(|noted| noted.findings) {
            let code = Code::ALL.iter().copied().find(|known| known.name() == code);
            if let Some(code) = code.filter(|code| code.is_of_contents()) {
                let finding = Finding { code, file: file.clone(), seq, reason };
                contents.entry(file).or_default().push(finding);
            }
        }
        Standing { at, structure: Vec::new(), contents }
    }

    /// Puts these findings in the place of those in this segment; false where nothing changes.
    fn replace(&mut self, segment: &str, found: Vec<Finding>, stream: &StreamId) -> bool {
        tell(&found, stream);
        match found.is_empty() {
            true => self.contents.remove(segment).is_some(),
            false => self.contents.insert(segment.to_owned(), found.clone()) != Some(found),
        }
    }

    fn noted(&self) -> Verified {
        let all = || self.structure.iter().chain(self.contents.values().flatten());
        let noted = |f: &Finding| FoundWrong {
            code: f.code.name().to_owned(),
            file: f.file.clone(),
            seq: f.seq,
            reason: f.reason.clone(),
        };
        let findings = all().take(MOST_NOTED).map(noted).collect();
        Verified { at: self.at, found: all().count() as i64, findings }
    }
}

fn tell(findings: &[Finding], stream: &StreamId) {
    for Finding { code, file, seq, reason } in findings {
        error!(source = %stream, code = code.name(), file, seq, reason, "the archive is not what was written; keep everything and run archiver verify");
    }
}

/// The segments in the order of their moments; what is only looked at again comes first.
fn in_time(stream: &StreamId, part: Part, due: Vec<Arc<Manifest>>) -> Vec<(f64, Arc<Manifest>)> {
    let at = |m: &Manifest| if part.holds(stream, m.first_seq) { moment(stream, m.first_seq) } else { 0.0 };
    let mut timed: Vec<_> = due.into_iter().map(|manifest| (at(&manifest), manifest)).collect();
    timed.sort_by(|(a, _), (b, _)| a.total_cmp(b));
    timed
}

/// The number of the turn that is on at this time.
fn turn_at(time: SystemTime, turn: Duration) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    (since.as_millis() / turn.as_millis().max(1)) as u64
}

/// Waits until this share of a turn is over.
async fn wait_for(number: u64, share: f64, turn: Duration) {
    let moment = turn.as_secs_f64() * (number as f64 + share);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    if let Ok(left) = Duration::try_from_secs_f64(moment - now.as_secs_f64()) {
        tokio::time::sleep(left).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finding(code: Code, file: &str) -> Finding {
        Finding { code, file: file.to_owned(), seq: Some(7), reason: "wrong".to_owned() }
    }

    #[test]
    fn a_finding_in_a_segment_stands_until_that_segment_is_verified_again() {
        let stream = StreamId::whole("shop");
        let mut standing = Standing::of(None);
        assert!(!standing.replace("a", Vec::new(), &stream), "nothing stood against it");
        assert!(standing.replace("a", vec![finding(Code::RowColumn, "a")], &stream));
        assert!(!standing.replace("a", vec![finding(Code::RowColumn, "a")], &stream), "the same again");
        standing.structure = vec![finding(Code::ObjectUnknown, "x")];
        let noted = standing.noted();
        assert_eq!((noted.found, noted.findings.len()), (2, 2));
        // Whoever goes on looks for the rest anew.
        let mut next = Standing::of(Some(noted));
        assert_eq!(next.noted().findings.iter().map(|f| f.code.as_str()).collect::<Vec<_>>(), ["row-column"]);
        assert!(!next.replace("b", Vec::new(), &stream));
        assert!(next.replace("a", Vec::new(), &stream));
        assert_eq!(next.noted().found, 0);
    }

    #[test]
    fn no_more_is_noted_than_somebody_reads() {
        let mut standing = Standing::of(None);
        standing.structure = vec![finding(Code::ObjectUnknown, "x"); 500];
        assert_eq!((standing.noted().found, standing.noted().findings.len()), (500, MOST_NOTED));
    }

    #[test]
    fn turns_follow_the_clock() {
        let turn = Duration::from_secs(86_400);
        let at = |seconds| turn_at(UNIX_EPOCH + Duration::from_secs(seconds), turn);
        assert_eq!([0, 86_399, 86_400, 30 * 86_400].map(at), [0, 0, 1, 30]);
    }
}
