//! Why something ended or failed, in words of which there are not many: for labels of metrics.
//!
//! Alerts and error numbers, of which a peer or a system could show any, are one word each.

use relay_core::{EndReason, Failure};

/// The word for a failure: its own, without a number.
pub(crate) fn of_failure(failure: Failure) -> String {
    if matches!(failure, Failure::Alert(_)) {
        "alert".to_owned()
    } else if matches!(failure, Failure::Os(_)) {
        "errno".to_owned()
    } else {
        failure.to_string()
    }
}

/// The word for a direction's end: as in the log, without a number.
pub(crate) fn of_end(reason: EndReason) -> String {
    match reason {
        EndReason::SourceFailed(failure) => format!("source-{}", of_failure(failure)),
        EndReason::SinkFailed(failure) => format!("sink-{}", of_failure(failure)),
        EndReason::SetupFailed(leg, failure) => format!("{leg}-setup-{}", of_failure(failure)),
        EndReason::Eof
        | EndReason::CloseNotify
        | EndReason::Severed
        | EndReason::TimedOut(_)
        | EndReason::Distrusted(..)
        | EndReason::Aborted => reason.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use relay_core::{Distrust, Leg, Timer};

    use super::*;

    #[test]
    fn words_are_those_of_the_log_without_numbers() {
        for (reason, word) in [
            (EndReason::Eof, "eof"),
            (EndReason::SourceFailed(Failure::Reset), "source-reset"),
            (EndReason::SinkFailed(Failure::Os(5)), "sink-errno"),
            (EndReason::SetupFailed(Leg::Back, Failure::Alert(48)), "back-setup-alert"),
            (EndReason::SetupFailed(Leg::Front, Failure::Rejected), "front-setup-rejected"),
            (EndReason::TimedOut(Timer::Dial), "timeout-dial"),
            (EndReason::Distrusted(Leg::Back, Distrust::Expired), "back-expired"),
        ] {
            assert_eq!(of_end(reason), word);
        }
    }
}
