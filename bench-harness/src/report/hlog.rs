//! Interval logs, in the form that HdrHistogram's own tools read: one file for each load.
//!
//! Values are nanoseconds. The maximum beside each histogram, which is there for people, is in
//! milliseconds, as in logs that jHiccup writes.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

use anyhow::{Context, Result, anyhow};
use hdrhistogram::serialization::V2DeflateSerializer;
use hdrhistogram::serialization::interval_log::IntervalLogWriterBuilder;

use super::{Labelled, figures};
use crate::record::{Load, Phase};

/// Writes `LABEL.PHASE.LOAD.hlog` for each load into `folder`, which is made if it is not there.
pub(crate) fn write(folder: &Path, records: &[Labelled<'_>]) -> Result<()> {
    std::fs::create_dir_all(folder).with_context(|| format!("make {}", folder.display()))?;
    let mut taken = BTreeSet::new();
    for one in records {
        for (index, phase) in one.record.phases.iter().enumerate() {
            for (load_name, load) in figures::loads(phase) {
                // The number keeps phases in order, and apart if they have the same name.
                let number = format!("{:02}-{}", index + 1, phase.name);
                let name = [one.label, &number, &load_name].map(file_name).join(".");
                let path = folder.join(free(&mut taken, &name) + ".hlog");
                log(&path, one, phase, load)
                    .with_context(|| format!("write {}", path.display()))?;
            }
        }
    }
    Ok(())
}

/// What is left of a name in which each character may stand in a file's.
fn file_name(name: &str) -> String {
    let safe = |c: char| if c.is_alphanumeric() || "-_".contains(c) { c } else { '-' };
    name.chars().map(safe).collect()
}

/// `name`, or if that is taken with a number behind it: what differs may be alike as a file's name.
fn free(taken: &mut BTreeSet<String>, name: &str) -> String {
    let numbered = (2..).map(|number| format!("{name}-{number}"));
    let mut names = std::iter::once(name.to_owned()).chain(numbered);
    names.find(|name| taken.insert(name.clone())).unwrap_or_default()
}

fn log(path: &Path, one: &Labelled<'_>, phase: &Phase, load: &Load) -> Result<()> {
    let began = UNIX_EPOCH + seconds(one.record.began + phase.start);
    let mut file = BufWriter::new(File::create(path)?);
    let mut form = V2DeflateSerializer::new();
    let mut log = IntervalLogWriterBuilder::new()
        .add_comment("[Histogram log format version 1.3]")
        .add_comment(&format!(
            "[{} of {} against {}: latency in nanoseconds; the maximum beside it in milliseconds]",
            load.name, phase.name, one.record.server
        ))
        .with_start_time(began)
        .with_base_time(began)
        .with_max_value_divisor(1e6)
        .begin_log_with(&mut file, &mut form)?;
    for interval in &load.intervals {
        let (start, length) = (seconds(interval.start), seconds(interval.seconds));
        log.write_histogram(&interval.latency.0, start, length, None)
            .map_err(|error| anyhow!("{error}"))?;
    }
    file.flush()?;
    Ok(())
}

/// Rounded to the millisecond in the log; what is below 0 is 0.
fn seconds(seconds: f64) -> Duration {
    Duration::try_from_secs_f64(seconds).unwrap_or_default()
}
