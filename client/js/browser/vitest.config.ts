import { defineConfig } from 'vitest/config';

// Node 20 has a WebSocket behind this flag, and Node 22 without.
const flag = '--experimental-websocket';

// Browsers, gateways and Redis are processes of the tests: one file at a time keeps a small
// machine from being busy with all of them.
export default defineConfig({
  test: {
    dir: import.meta.dirname,
    fileParallelism: false,
    pool: 'forks',
    poolOptions: { forks: { execArgv: process.allowedNodeEnvironmentFlags.has(flag) ? [flag] : [] } },
    testTimeout: 60_000,
    hookTimeout: 120_000,
  },
});
