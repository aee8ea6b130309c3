import { defineConfig } from 'vitest/config';

// Browsers, gateways and Redis are processes of the tests: one file at a time keeps a small
// machine from being busy with all of them.
export default defineConfig({
  test: {
    dir: import.meta.dirname,
    fileParallelism: false,
    testTimeout: 60_000,
    hookTimeout: 120_000,
  },
});
