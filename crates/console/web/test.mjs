// Runs the page's own tests: of its pure parts, with Node.js' runner.
import { spawnSync } from 'node:child_process';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import * as esbuild from 'esbuild';

const here = path.dirname(new URL(import.meta.url).pathname);
const out = fs.mkdtempSync(path.join(os.tmpdir(), 'tiphys-console-test-'));
const tests = fs.readdirSync(path.join(here, 'test')).filter((n) => n.endsWith('.test.ts'));
// What a browser has and the pure parts do not use.
const banner = { js: 'globalThis.sessionStorage = globalThis.localStorage = { getItem: () => null }; globalThis.location = { hash: "" }; globalThis.matchMedia = () => ({ addEventListener() {} });' };
await esbuild.build({ absWorkingDir: here, entryPoints: tests.map((n) => `test/${n}`), bundle: true, platform: 'neutral', external: ['node:*'], format: 'esm', conditions: ['browser'], mainFields: ['browser', 'module', 'main'], outdir: out, outExtension: { '.js': '.mjs' }, banner });
const ran = spawnSync(process.execPath, ['--test', ...tests.map((n) => path.join(out, n.replace(/\.ts$/, '.mjs')))], { cwd: here, stdio: 'inherit' });
fs.rmSync(out, { recursive: true });
process.exit(ran.status ?? 1);
