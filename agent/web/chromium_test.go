package web

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"
)

// chromium is a real browser, spoken to over pipes in its DevTools protocol: JSON
// messages that end with a NUL.
type chromium struct {
	t   *testing.T
	in  *os.File
	tab string // session of the only tab

	mu      sync.Mutex
	next    int
	answers map[int]chan answer
	loaded  chan string // loaders of pages that are there
	console []string    // what it complained about
}

type answer struct {
	Result json.RawMessage
	Error  *struct{ Message string }
}

// startChromium opens an empty tab. The browser resolves no name and has a
// home of its own.
func startChromium(t *testing.T) *chromium {
	t.Helper()
	toRead, toWrite, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	fromRead, fromWrite, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	home := t.TempDir()
	cmd := exec.Command("chromium", "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
		"--remote-debugging-pipe", "--user-data-dir="+filepath.Join(home, "profile"), "--no-first-run", "--disable-sync",
		"--disable-background-networking", "--disable-component-update", "--disable-extensions", "--no-proxy-server",
		"--hide-scrollbars", "--force-color-profile=srgb", "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1", "about:blank")
	cmd.Env = append(os.Environ(), "HOME="+home)
	cmd.ExtraFiles = []*os.File{toRead, fromWrite}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	var said bytes.Buffer
	cmd.Stderr = &said
	if err := cmd.Start(); err != nil {
		t.Fatalf("%v; remedy: make deps", err)
	}
	toRead.Close()
	fromWrite.Close()
	c := &chromium{t: t, in: toWrite, answers: make(map[int]chan answer), loaded: make(chan string, 100)}
	var reader sync.WaitGroup
	reader.Go(func() { c.read(fromRead) })
	t.Cleanup(func() {
		syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		cmd.Wait()
		toWrite.Close()
		reader.Wait()
		fromRead.Close()
		if t.Failed() {
			t.Logf("chromium: %s", &said)
		}
	})
	var target struct{ TargetID string }
	c.call("Target.createTarget", map[string]any{"url": "about:blank"}, &target)
	var session struct{ SessionID string }
	c.call("Target.attachToTarget", map[string]any{"targetId": target.TargetID, "flatten": true}, &session)
	c.mu.Lock()
	c.tab = session.SessionID
	c.mu.Unlock()
	for _, domain := range []string{"Page", "Runtime", "Log", "Accessibility"} {
		c.call(domain+".enable", nil, nil)
	}
	c.call("Page.setLifecycleEventsEnabled", map[string]any{"enabled": true}, nil)
	return c
}

// call asks for something and waits for the answer.
func (c *chromium) call(method string, params map[string]any, result any) {
	c.t.Helper()
	message := map[string]any{"method": method}
	if params != nil {
		message["params"] = params
	}
	got := make(chan answer, 1)
	c.mu.Lock()
	c.next++
	message["id"] = c.next
	if c.tab != "" {
		message["sessionId"] = c.tab
	}
	c.answers[c.next] = got
	c.mu.Unlock()
	b, err := json.Marshal(message)
	if err != nil {
		c.t.Fatal(err)
	}
	if _, err := c.in.Write(append(b, 0)); err != nil {
		c.t.Fatalf("%s: %v", method, err)
	}
	select {
	case a := <-got:
		if a.Error != nil {
			c.t.Fatalf("%s: %s", method, a.Error.Message)
		}
		if result != nil {
			if err := json.Unmarshal(a.Result, result); err != nil {
				c.t.Fatalf("%s: %v", method, err)
			}
		}
	case <-time.After(2 * time.Minute):
		c.t.Fatalf("%s is not answered", method)
	}
}

// read takes what the browser says until it is gone.
func (c *chromium) read(from *os.File) {
	in := bufio.NewReader(from)
	for {
		b, err := in.ReadBytes(0)
		if err != nil {
			return
		}
		var m struct {
			ID     int
			Method string
			Params json.RawMessage
			answer
		}
		if json.Unmarshal(bytes.TrimSuffix(b, []byte{0}), &m) != nil {
			continue
		}
		c.mu.Lock()
		switch {
		case m.ID != 0:
			c.answers[m.ID] <- m.answer
			delete(c.answers, m.ID)
		case m.Method == "Page.lifecycleEvent":
			var e struct{ Name, LoaderID string }
			if json.Unmarshal(m.Params, &e) == nil && e.Name == "load" {
				c.loaded <- e.LoaderID
			}
		case m.Method == "Runtime.consoleAPICalled", m.Method == "Runtime.exceptionThrown", m.Method == "Log.entryAdded":
			c.console = append(c.console, m.Method+" "+string(m.Params))
		}
		c.mu.Unlock()
	}
}

// open goes to a page and waits until it has loaded.
func (c *chromium) open(url string) {
	c.t.Helper()
	var r struct{ LoaderID, ErrorText string }
	c.call("Page.navigate", map[string]any{"url": url}, &r)
	if r.ErrorText != "" {
		c.t.Fatalf("%s: %s", url, r.ErrorText)
	}
	for end := time.After(2 * time.Minute); ; {
		select {
		case loader := <-c.loaded:
			if loader == r.LoaderID { // not the page before
				return
			}
		case <-end:
			c.t.Fatalf("%s does not load", url)
		}
	}
}

// look sets width, in CSS pixels, and theme ("light", "dark").
func (c *chromium) look(width int, theme string) {
	c.t.Helper()
	c.call("Emulation.setDeviceMetricsOverride", map[string]any{"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": false}, nil)
	c.call("Emulation.setEmulatedMedia", map[string]any{"features": []map[string]string{{"name": "prefers-color-scheme", "value": theme}}}, nil)
}

// script runs JavaScript in the page and reads what it returns.
func (c *chromium) script(code string, result any) {
	c.t.Helper()
	var r struct {
		Result           struct{ Value json.RawMessage }
		ExceptionDetails *struct {
			Text      string
			Exception struct{ Description string }
		}
	}
	c.call("Runtime.evaluate", map[string]any{"expression": code, "returnByValue": true, "awaitPromise": true}, &r)
	if r.ExceptionDetails != nil {
		c.t.Fatalf("script: %s %s", r.ExceptionDetails.Text, r.ExceptionDetails.Exception.Description)
	}
	if result != nil {
		if err := json.Unmarshal(r.Result.Value, result); err != nil {
			c.t.Fatalf("script: %v", err)
		}
	}
}

// key presses a key.
func (c *chromium) key(name string, code int) {
	c.t.Helper()
	for _, kind := range []string{"rawKeyDown", "keyUp"} {
		c.call("Input.dispatchKeyEvent", map[string]any{"type": kind, "key": name, "code": name, "windowsVirtualKeyCode": code}, nil)
	}
}

// node is one node of the accessibility tree.
type node struct {
	Ignored    bool
	Role, Name struct{ Value any }
	Properties []struct {
		Name  string
		Value struct{ Value any }
	}
}

// tree is what a screen reader is told.
func (c *chromium) tree() []node {
	c.t.Helper()
	var r struct{ Nodes []node }
	c.call("Accessibility.getFullAXTree", nil, &r)
	return r.Nodes
}

// shoot keeps a picture of the whole page, if LAB_SCREENSHOTS names a directory.
func (c *chromium) shoot(name string) {
	c.t.Helper()
	dir := os.Getenv("LAB_SCREENSHOTS")
	if dir == "" {
		return
	}
	var r struct{ Data string }
	c.call("Page.captureScreenshot", map[string]any{"captureBeyondViewport": true}, &r)
	b, err := base64.StdEncoding.DecodeString(r.Data)
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, fmt.Sprintf("%s.png", name)), b, 0o600)
	}
	if err != nil {
		c.t.Error(err)
	}
}

// complaints are what the console holds, and empties it.
func (c *chromium) complaints() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	list := c.console
	c.console = nil
	return list
}
