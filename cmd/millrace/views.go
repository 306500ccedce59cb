package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/millrace/millrace/agent/control"
	"github.com/millrace/millrace/agent/printable"
	"github.com/millrace/millrace/cmd/internal/program"
)

// fleetFlag has a listing be of all nodes.
type fleetFlag struct {
	Fleet bool `help:"Of all nodes of the fleet, each line with its node's name; in JSON, node. Those that do not answer are named on standard error, and the exit code is 75."`
}

// nodeColumn is before each line of a listing of the fleet.
const nodeColumn = "%-15s "

// ofNode is an item of a node.
type ofNode[T any] struct {
	node string
	item T
	raw  json.RawMessage
}

// fromFleet gathers a view of all nodes, in the order of their names. The error, if not nil,
// is about nodes that did not answer: what others said is returned beside it.
func fromFleet[T any](ctx context.Context, client *control.Client, view string) (list []ofNode[T], err error) {
	missing, err := client.ViewOfFleet(ctx, view, control.Filter{}, func(node string, item json.RawMessage) error {
		x := ofNode[T]{node: node, raw: slices.Clone(item)}
		if err := json.Unmarshal(item, &x.item); err != nil {
			return fmt.Errorf("node %s: %w", node, err)
		}
		list = append(list, x)
		return nil
	})
	slices.SortStableFunc(list, func(a, b ofNode[T]) int { return cmp.Compare(a.node, b.node) })
	if err != nil {
		return nil, err
	}
	return list, unanswered(missing)
}

// unanswered is the error of nodes that did not answer, a line for each; nil if all did. It is
// EX_TEMPFAIL, as of Postfix's own commands where a part of the answer is to be had later.
func unanswered(missing []control.Unanswered) error {
	var err error
	for _, m := range missing {
		err = errors.Join(err, fmt.Errorf("node %s did not answer: %s", m.Node, m.Why))
	}
	if err == nil {
		return nil
	}
	return program.Error{Code: program.ExitTempFail, Err: err}
}

// isUnanswered says whether an error is of nodes that did not answer alone.
func isUnanswered(err error) bool {
	var e program.Error
	return errors.As(err, &e) && e.Code == program.ExitTempFail
}

// printItem writes an object in JSON with its node to a writer of package printable.
func printItem(out io.Writer, node string, item json.RawMessage) error {
	name, err := json.Marshal(node)
	if err != nil {
		return err
	}
	line := append([]byte(`{"node":`), name...)
	if string(item) != "{}" {
		line = append(line, ',')
	}
	_, err = out.Write(append(append(line, item[1:]...), '\n'))
	return err
}

// printItems writes all that nodes have said.
func printItems[T any](out io.Writer, list []ofNode[T]) error {
	json := printable.NewJSON(out)
	for i := range list {
		if err := printItem(json, list[i].node, list[i].raw); err != nil {
			return err
		}
	}
	return nil
}

// mailqOfFleet lists the queues of all nodes, as their messages come, and says how many came.
func mailqOfFleet(ctx context.Context, client *control.Client, f control.Filter, asJSON bool, l *mailq) error {
	l.fleet = true
	in := printable.NewJSON(l.out)
	missing, err := client.ViewOfFleet(ctx, control.ViewQueue, f, func(node string, item json.RawMessage) error {
		if asJSON {
			l.messages++
			return printItem(in, node, item)
		}
		var m control.Message
		if err := json.Unmarshal(item, &m); err != nil {
			return fmt.Errorf("node %s: %w", node, err)
		}
		l.node = node
		return l.message(&m)
	})
	if err != nil {
		return err
	}
	return unanswered(missing)
}
