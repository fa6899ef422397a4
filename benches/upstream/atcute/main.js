// The job of benches/compare.py, done by @atcute/repo while the file comes in: FILE... --stream.
// It gives records as they come, so in key order only where the file is in streamable order.
import { createReadStream, readFileSync, writeFileSync } from 'node:fs';
import { Readable } from 'node:stream';

import { fromStream } from '@atcute/repo';

const peakKib = () => Number(/VmHWM:\s+(\d+)/.exec(readFileSync('/proc/self/status', 'utf8'))[1]);

try {
	// 5 resets the peak to what is resident now; where that is not allowed the growth is counted
	// from the peak so far.
	writeFileSync('/proc/self/clear_refs', '5');
} catch {}
const base = peakKib();
const start = performance.now();
const seen = { records: 0, record_bytes: 0, key_bytes: 0 };
for (const file of process.argv.slice(2).filter((argument) => !argument.startsWith('--'))) {
	const stream = Readable.toWeb(createReadStream(file, { highWaterMark: 1 << 18 }));
	const repo = fromStream(stream);
	for await (const entry of repo) {
		seen.records += 1;
		seen.key_bytes += entry.collection.length + 1 + entry.rkey.length;
		seen.record_bytes += entry.bytes.length;
	}
	await repo.dispose();
}
const seconds = (performance.now() - start) / 1000;
const { version } = JSON.parse(
	readFileSync(new URL('node_modules/@atcute/repo/package.json', import.meta.url), 'utf8'),
);
console.log(
	JSON.stringify({ ...seen, seconds, growth_kib: Math.max(peakKib() - base, 0), spilled: 0, version }),
);
