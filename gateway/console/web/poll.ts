// Asking again and again.

/**
 * Calls a function as soon as the caller is done, and then that many ms after it has ended, for as long as the page
 * can be seen, until the signal ends it. The function deals with its own errors. The returned
 * function makes it begin anew now.
 */
export function poll(ms: number, signal: AbortSignal, ask: () => Promise<void>): () => void {
  let timer: ReturnType<typeof setTimeout> | undefined;
  let running = false;
  let again = false;
  const now = async (): Promise<void> => {
    clearTimeout(timer);
    if (signal.aborted) return;
    if (running) {
      again = true;
      return;
    }
    running = true;
    again = false;
    try {
      if (!document.hidden) await ask();
    } finally {
      running = false;
    }
    if (again) void now();
    else if (!signal.aborted) timer = setTimeout(() => void now(), ms);
  };
  const seen = (): void => {
    if (!document.hidden) void now();
  };
  document.addEventListener('visibilitychange', seen, { signal });
  signal.addEventListener('abort', () => clearTimeout(timer));
  queueMicrotask(() => void now());
  return () => void now();
}
