//! Archives made for measuring: segments one behind the other, each with its manifest.

use anyhow::Result;
use archiver::archive::manifest::{Context, Manifest, Sealed};
use archiver::archive::segment::SegmentBuilder;
use archiver::archive::store::Archive;

/// Builds a segment, and puts it into the archive with its manifest, behind the last one.
pub(crate) async fn extend(
    archive: &Archive,
    builder: SegmentBuilder,
    last: &mut Option<Sealed>,
) -> Result<()> {
    let segment = builder.finish()?;
    archive.commit(&segment).await?;
    let context = Context {
        log: "bench",
        counters: None,
        policy_digest: "",
        server: "",
        created: "2026-01-01T00:00:00Z".to_owned(),
        previous: last.as_ref(),
    };
    *last = Some(archive.seal(&Manifest::new(&segment, context)).await?);
    Ok(())
}
