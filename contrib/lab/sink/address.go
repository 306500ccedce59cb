package sink

import "bytes"

// envelopePath takes the address out of "FROM:<address> parameters" or "TO:...". Space
// after the colon and missing brackets are let pass, as most servers do.
func envelopePath(p []byte, prefix string) (address, args []byte, ok bool) {
	if len(p) < len(prefix) || !bytes.EqualFold(p[:len(prefix)], []byte(prefix)) {
		return nil, nil, false
	}
	p = bytes.TrimLeft(p[len(prefix):], " ")
	if len(p) == 0 {
		return nil, nil, false
	}
	if p[0] != '<' {
		address, args, _ = bytes.Cut(p, []byte(" "))
		return address, args, true
	}
	quoted := false
	for i := 1; i < len(p); i++ {
		switch c := p[i]; {
		case c == '\\' && quoted:
			i++
		case c == '"':
			quoted = !quoted
		case c == '>' && !quoted:
			return p[1:i], bytes.TrimSpace(p[i+1:]), true
		}
	}
	return nil, nil, false
}

// lowerDomain gives the domain of an address in lower case, without a copy
// where it is so already.
func lowerDomain(address []byte) []byte {
	domain := address[bytes.LastIndexByte(address, '@')+1:]
	for _, c := range domain {
		if 'A' <= c && c <= 'Z' {
			return bytes.ToLower(domain)
		}
	}
	return domain
}
