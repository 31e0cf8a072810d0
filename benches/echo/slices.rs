//! Round trips that more than one subset measures.

use std::hint::black_box;

use slimerpc_actors::Proxy;
use tokio::runtime::Runtime;

use crate::LEAST;
use crate::in_turns::Slice;
use crate::support::{Figures, Result};
use crate::worker::Echo;

/// The limit of whatever copies: so many bytes from here to there, and from there to here.
pub(crate) fn memcpy(size: usize) -> Slice<'static, Figures> {
    let (mut here, mut there) = (vec![b'x'; size], vec![b'y'; size]);
    Box::new(move |seconds| {
        Figures::measure(seconds, LEAST, || {
            there.copy_from_slice(black_box(&here));
            here.copy_from_slice(black_box(&there));
            black_box(&here);
            Ok(())
        })
    })
}

/// A raw call, for which the thread blocks.
pub(crate) fn raw<'a>(echo: &'a Proxy<Echo>, request: &'a [u8]) -> Slice<'a, Figures> {
    Box::new(move |seconds| {
        let call = || echo.raw(request).wait().map(drop);
        Ok(Figures::measure(seconds, LEAST, call)?)
    })
}

/// A raw call, which a task awaits.
pub(crate) fn raw_inside<'a>(
    runtime: &'a Runtime,
    echo: &'a Proxy<Echo>,
    request: &'a [u8],
) -> Slice<'a, Figures> {
    Box::new(move |seconds| {
        let call = async || echo.raw(request).await.map(drop);
        Ok(runtime.block_on(Figures::measure_async(seconds, LEAST, call))?)
    })
}

/// A runtime of one thread, the one that runs it.
pub(crate) fn runtime() -> Result<Runtime> {
    Ok(tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?)
}
