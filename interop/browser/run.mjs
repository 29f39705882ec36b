// Serves the page, opens it in headless Chromium and prints what it says, a JSON object a line.
//
// Usage: run.mjs SDK.js CHROMIUM PROFILE_FOLDER CONF   where CONF is JSON: host, signalingAddress, id, key.

import { spawn } from 'node:child_process';
import { readFile } from 'node:fs/promises';
import { createServer } from 'node:http';

const [sdk, chromium, profile, conf] = process.argv.slice(2);
const here = (name) => readFile(new URL(name, import.meta.url));
const files = {
  '/': ['text/html', () => here('page.html')],
  '/page.js': ['text/javascript', () => here('page.js')],
  '/sdk.js': ['text/javascript', () => readFile(sdk)],
  '/conf': ['application/json', async () => conf],
};

const server = createServer(async (request, response) => {
  if (request.url === '/say') {
    let said = '';
    for await (const part of request) {
      said += part;
    }
    console.log(said);
    return response.end();
  }
  const [type, read] = files[request.url] ?? [];
  if (!read) {
    return response.writeHead(404).end();
  }
  response.writeHead(200, { 'content-type': type });
  response.end(await read());
});

server.listen(0, '127.0.0.1', () => {
  const flags = ['--headless=new', '--no-sandbox', '--disable-gpu', '--no-first-run', '--disable-background-networking'];
  // The page's service is reached in clear; the cloud's certificate is of a CA that no browser knows.
  flags.push('--ignore-certificate-errors', `--user-data-dir=${profile}`);
  const browser = spawn(chromium, [...flags, `http://localhost:${server.address().port}/`], { stdio: ['ignore', 'ignore', 'inherit'] });
  browser.on('error', (error) => {
    console.log(JSON.stringify({ step: 'failed', error: `${error}` }));
    process.exit(1);
  });
  browser.on('exit', () => process.exit(0));
  console.log(JSON.stringify({ step: 'browser', pid: browser.pid }));
});
