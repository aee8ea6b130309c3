/**
 * onWake calls back when a link may have been lost, or may be had again, without anything
 * else that says so: the machine is offline or online, or the tab is looked at again. It
 * gives a function that ends that. Outside browsers there is nothing to listen to.
 */
export function onWake(wake: () => void): () => void {
  const page = globalThis as { addEventListener?: Window['addEventListener']; removeEventListener?: Window['removeEventListener'] };
  const doc = globalThis.document as Document | undefined;
  const visible = () => {
    if (doc?.visibilityState === 'visible') {
      wake();
    }
  };
  const types = ['online', 'offline', 'pageshow'];
  for (const type of types) {
    page.addEventListener?.(type, wake);
  }
  doc?.addEventListener('visibilitychange', visible);
  return () => {
    for (const type of types) {
      page.removeEventListener?.(type, wake);
    }
    doc?.removeEventListener('visibilitychange', visible);
  };
}
