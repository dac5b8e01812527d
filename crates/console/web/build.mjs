// Builds the page: types are checked, sources become few files with their hash in their names, and
// each is compressed. `--check` builds elsewhere and says whether what is committed is the same.
import { createHash } from 'node:crypto';
import { execFileSync } from 'node:child_process';
import fs from 'node:fs';
import path from 'node:path';
import { gunzipSync, gzipSync } from 'node:zlib';
import * as esbuild from 'esbuild';

const here = import.meta.dirname ?? path.dirname(new URL(import.meta.url).pathname);
const dist = path.join(here, '..', 'dist');
/** Bytes of all files together, compressed: the page has to stay small. */
const MOST_BYTES = 300 * 1024;

/** The terminal writes its styles into the page, which the content-security policy forbids, even
 * an empty element for them; sheets that are made by script are allowed. Fails when the library has changed. */
const stylesBySheet = {
  name: 'styles-by-sheet',
  setup(build) {
    build.onLoad({ filter: /@xterm\/xterm\/lib\/xterm\.mjs$/ }, (args) => {
      const text = fs.readFileSync(args.path, 'utf8');
      const inline = /[\w.]+\.createElement\("style"\)/g;
      const attribute = /(\w+)\.setAttribute\("style",/g;
      const found = [text.match(inline)?.length, text.match(attribute)?.length];
      if (found[0] !== 3 || found[1] !== 1) throw new Error(`@xterm/xterm has changed: ${found} places that set styles, not 3,1`);
      const sheet = `function sheetElement(){const e=document.createElement("template"),s=new CSSStyleSheet;
        document.adoptedStyleSheets=[...document.adoptedStyleSheets,s];
        Object.defineProperty(e,"textContent",{set:t=>s.replaceSync(t)});
        e.remove=()=>{Element.prototype.remove.call(e);document.adoptedStyleSheets=document.adoptedStyleSheets.filter(o=>o!==s)};
        return e}\n`;
      const patched = text.replace(inline, 'sheetElement()').replace(attribute, 'cssText($1,');
      return { contents: `${sheet}function cssText(e,t){e.style.cssText=t}\n${patched}`, loader: 'js' };
    });
  },
};

function sources(dir = here) {
  return fs.readdirSync(dir, { withFileTypes: true }).flatMap((e) => {
    if (e.name === 'node_modules') return [];
    const full = path.join(dir, e.name);
    return e.isDirectory() ? sources(full) : [path.relative(here, full)];
  }).sort();
}

/** The hash of all sources, as xtask/src/console.rs makes it. */
function hashOfSources() {
  const hash = createHash('sha256');
  for (const name of sources()) {
    const text = fs.readFileSync(path.join(here, name));
    hash.update(`${name}\n${text.length}\n`).update(text);
  }
  return hash.digest('hex');
}

async function build() {
  execFileSync(process.execPath, [path.join(here, 'node_modules', 'typescript', 'bin', 'tsc'), '--noEmit', '-p', here], { stdio: 'inherit' });
  const result = await esbuild.build({
    absWorkingDir: here,
    entryPoints: { app: 'src/main.tsx' },
    bundle: true, splitting: true, format: 'esm', minify: true, write: false,
    target: ['es2022'], jsx: 'automatic', jsxImportSource: 'preact',
    outdir: 'out', entryNames: '[name]-[hash]', chunkNames: 'part-[hash]', legalComments: 'none',
    metafile: true, plugins: [stylesBySheet],
  });
  const files = new Map(result.outputFiles.map((f) => [path.basename(f.path), Buffer.from(f.contents)]));
  const icon = fs.readFileSync(path.join(here, 'src', 'icon.svg'));
  const iconName = `icon-${createHash('sha256').update(icon).digest('hex').slice(0, 8)}.svg`;
  files.set(iconName, icon);
  const named = (start, end) => [...files.keys()].find((n) => n.startsWith(start) && n.endsWith(end));
  const html = fs.readFileSync(path.join(here, 'src', 'index.html'), 'utf8')
    .replace('ICON', iconName).replace('STYLE', named('app-', '.css')).replace('SCRIPT', named('app-', '.js'));
  files.set('index.html', Buffer.from(html));
  return new Map([...files].sort(([a], [b]) => (a < b ? -1 : 1)));
}

/** The table that the crate includes. */
function table(files) {
  const rows = [...files.keys()].map((n) => `    ("${n}", include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/dist/${n}.gz"))),\n`).join('');
  return `// Made by web/build.mjs.\n&[\n${rows}]\n`;
}

const files = await build();
const packed = new Map([...files].map(([n, b]) => [n, gzipSync(b, { level: 9 })]));
const size = [...packed.values()].reduce((sum, b) => sum + b.length, 0);
if (size > MOST_BYTES) throw new Error(`the page has ${size} bytes compressed, more than ${MOST_BYTES}`);

if (process.argv.includes('--check')) {
  const wrong = [...files].filter(([n, b]) => {
    const at = path.join(dist, `${n}.gz`);
    return !fs.existsSync(at) || !gunzipSync(fs.readFileSync(at)).equals(b);
  });
  const known = new Set([...files.keys()].map((n) => `${n}.gz`).concat('files.in', 'sources.sha256'));
  const left = fs.readdirSync(dist).filter((n) => !known.has(n));
  if (wrong.length || left.length) {
    console.error(`crates/console/dist is not what its sources make: ${[...wrong.map(([n]) => n), ...left].join(', ')}. Run: cargo xtask console`);
    process.exit(1);
  }
} else {
  fs.rmSync(dist, { recursive: true, force: true });
  fs.mkdirSync(dist, { recursive: true });
  for (const [n, b] of packed) fs.writeFileSync(path.join(dist, `${n}.gz`), b);
  fs.writeFileSync(path.join(dist, 'files.in'), table(files));
  fs.writeFileSync(path.join(dist, 'sources.sha256'), `${hashOfSources()}\n`);
  for (const [n, b] of packed) console.log(`${String(b.length).padStart(8)} ${n}`);
  console.log(`${String(size).padStart(8)} of ${MOST_BYTES} bytes`);
}
