import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Base64;
import java.util.List;
import org.apache.datasketches.common.ArrayOfStringsSerDe;
import org.apache.datasketches.frequencies.ItemsSketch;
import org.apache.datasketches.hll.HllSketch;
import org.apache.datasketches.kll.KllFloatsSketch;
import org.apache.datasketches.memory.Memory;

/** For each line of three sketches in base64, separated by tabs, writes what Java makes of them. */
public final class ReadSketches {
  private ReadSketches() {}

  /** Takes the file to read and the file to write. */
  public static void main(String[] files) throws IOException {
    List<String> results = new ArrayList<>();
    for (String line : Files.readAllLines(Path.of(files[0]))) {
      String[] sketches = line.split("\t");
      HllSketch ids = HllSketch.heapify(memory(sketches[0]));
      KllFloatsSketch lengths = KllFloatsSketch.heapify(memory(sketches[1]));
      ItemsSketch<String> terms =
          ItemsSketch.getInstance(memory(sketches[2]), new ArrayOfStringsSerDe());
      results.add(
          String.join(
              "\t",
              Double.toString(ids.getEstimate()),
              Double.toString(ids.getLowerBound(2)),
              Double.toString(ids.getUpperBound(2)),
              Long.toString(lengths.getN()),
              Float.toString(lengths.getQuantile(0.5)),
              Long.toString(terms.getStreamLength()),
              Long.toString(terms.getUpperBound("text"))));
    }
    Files.write(Path.of(files[1]), results);
  }

  private static Memory memory(String base64) {
    return Memory.wrap(Base64.getDecoder().decode(base64));
  }
}
